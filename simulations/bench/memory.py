"""The most memory that a process and all its descendants held together.

Example::

    with PeakMemory(process.pid) as memory:
        process.wait()
    memory.peak_bytes
"""

import threading
from types import TracebackType

import psutil

__all__ = ["PeakMemory"]

EVERY_S = 2.0


class PeakMemory:
    """Looks every two seconds; every half second took 7 % of a core, and more from who has more processes.

    Pages that processes share are shared out among them where the system tells (Linux).
    """

    def __init__(self, pid: int) -> None:
        """Watch this process."""
        self.peak_bytes = 0
        self._root = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.peak_bytes = max(self.peak_bytes, _held(self._root))
            self._stop.wait(EVERY_S)

    def __enter__(self) -> "PeakMemory":
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()


def _held(pid: int) -> int:
    try:
        root = psutil.Process(pid)
        return sum(_own(process) for process in (root, *root.children(recursive=True)))
    except psutil.Error:
        return 0


def _own(process: psutil.Process) -> int:
    try:
        info = process.memory_full_info()
    except psutil.Error:  # it has ended, or is another user's
        return 0
    return int(getattr(info, "pss", info.rss))
