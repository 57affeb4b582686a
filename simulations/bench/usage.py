"""What a process and all its descendants used: the most memory that they held together, and their processor time.

Example::

    with Usage(process.pid) as usage:
        process.wait()
    usage.peak_bytes, usage.cpu_s
"""

import resource
import threading
from types import TracebackType

import psutil

__all__ = ["Usage"]

EVERY_S = 2.0


class Usage:
    """Looks every two seconds; every half second took 7 % of a core, and more from who has more processes.

    Pages that processes share are shared out among them where the system tells (Linux). Processor time is user and system
    together. Of a process that nobody waits for, what it did after the last look at it is not known: up to two seconds.
    """

    def __init__(self, pid: int) -> None:
        """Watch this process, a child of this one (or this one)."""
        self.peak_bytes = 0
        self._seen: dict[tuple[int, float], float] = {}
        self._waited_s = 0.0
        self._root = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def cpu_s(self) -> float:
        """What was seen last of each process, or what the system says of those that were waited for, if that is more."""
        return max(sum(self._seen.values()), self._waited_s)

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.peak_bytes = max(self.peak_bytes, sum(self._look(process) for process in _family(self._root)))
            self._stop.wait(EVERY_S)

    def _look(self, process: psutil.Process) -> int:
        """Note a process's time and return its memory."""
        try:
            spent, info = process.cpu_times(), process.memory_full_info()
            self._seen[process.pid, process.create_time()] = float(spent.user + spent.system)
        except psutil.Error:  # it has ended, or is another user's
            return 0
        return int(getattr(info, "pss", info.rss))

    def __enter__(self) -> "Usage":
        """Begin to watch."""
        self._before_s = _waited_s()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()
        self._waited_s = _waited_s() - self._before_s


def _family(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _waited_s() -> float:
    """Processor time of all children of this process that were waited for, and of theirs."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
