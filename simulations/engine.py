"""A pool of worker processes on this machine, driven from one thread.

Example::

    with Engine(base=folder, experiment=experiment, workers=2, home=Path("releases.sites")) as engine:
        engine.submit("1", {"kind": "train", "node": {"site": "amazon"}, "content": packed})
        for task, outcome in engine.collect(wait_s=0.1):
            ...
"""

import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from fedrelease.errors import EngineError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import to_document
from fedrelease.files import Json
from fedrelease.simulations.wire import receive, send

__all__ = ["Engine", "default_workers"]

START_S = 180.0
STOP_S = 5.0


def default_workers(sites: int) -> int:
    """One single-threaded worker per core that this process may use, and no more than there are sites."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(cores, sites))


class Engine:
    """Starts workers, hands tasks to idle ones in order of submission, and collects what they answer.

    A worker that dies (out of memory, killed) fails its task only; the nursery replaces it.
    """

    def __init__(self, *, base: Path, experiment: Experiment, workers: int, home: Path) -> None:
        """Begin to start; the workers load while the caller goes on with other things."""
        self.handover = home / "handover"
        shutil.rmtree(self.handover, ignore_errors=True)
        self.handover.mkdir(parents=True)
        self.log = home / "engine.log"
        self._queue: deque[tuple[str, Mapping[str, Json]]] = deque()
        self._busy: dict[int, str] = {}
        self._ready = False
        self._selector = selectors.DefaultSelector()
        pairs = [socket.socketpair() for _ in range(workers)]
        self._sockets = [ours for ours, _ in pairs]
        self._process = self._spawn([theirs for _, theirs in pairs], base, experiment)
        for place, ours in enumerate(self._sockets):
            self._selector.register(ours, selectors.EVENT_READ, place)
        self._selector.register(self._control, selectors.EVENT_READ, None)

    def _spawn(self, theirs: list[socket.socket], base: Path, experiment: Experiment) -> subprocess.Popen[bytes]:
        alive_read, self._alive = os.pipe()
        self._control, control_write = os.pipe()
        handles = [*(connection.fileno() for connection in theirs), alive_read, control_write]
        settings = {
            "sockets": handles[:-2],
            "alive": alive_read,
            "control": control_write,
            "base": str(base),
            "handover": str(self.handover),
            "experiment": to_document(experiment),
        }
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "fedrelease.simulations.worker", json.dumps(settings)],
                pass_fds=handles,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false"},
                start_new_session=True,
            )
        for connection in theirs:
            connection.close()
        os.close(alive_read)
        os.close(control_write)
        return process

    def submit(self, task: str, frame: Mapping[str, Json]) -> None:
        """Queue a task; its outcome comes out of :meth:`collect` under the same name."""
        self._queue.append((task, {**frame, "id": task}))
        self._feed()

    def collect(self, *, wait_s: float) -> Iterator[tuple[str, Mapping[str, Json]]]:
        """What has been answered, waiting at most ``wait_s`` for the first: ``{"content": ...}`` or ``{"failed": reason}``.

        Raises:
            EngineError: the workers did not start, or all of them are gone.
        """
        for key, _ in self._selector.select(wait_s):
            if key.data is None:
                yield from self._hear()
            else:
                yield from self._take(int(key.data))
        self._feed()

    def _feed(self) -> None:
        for place, connection in enumerate(self._sockets):
            if self._ready and self._queue and place not in self._busy:
                task, frame = self._queue.popleft()
                self._busy[place] = task
                send(connection, frame)

    def _take(self, place: int) -> Iterator[tuple[str, Mapping[str, Json]]]:
        frame = receive(self._sockets[place])
        if frame is None:
            raise self._gone()
        task = str(frame.pop("id"))
        if self._busy.get(place) == task:
            del self._busy[place]
            yield task, frame

    def _hear(self) -> Iterator[tuple[str, Mapping[str, Json]]]:
        data = os.read(self._control, 1 << 16)
        if not data:
            raise self._gone()
        for line in data.splitlines():
            event = json.loads(line)
            self._ready = self._ready or "ready" in event
            task = self._busy.pop(event["died"], None) if "died" in event else None
            if task is not None:
                yield task, {"failed": f"the site's process died with status {event['status']}; see {self.log.name}"}

    def _gone(self) -> EngineError:
        tail = self.log.read_text(errors="replace").strip().splitlines()[-1:]
        return EngineError(
            "the workers are gone",
            value=tail[0] if tail else "no message",
            rule="the engine needs its worker processes",
            hint=f"read {self.log}; if memory ran out, use fewer --workers. Run the same command to continue",
        )

    def close(self) -> None:
        """End all workers now, whatever they do."""
        os.close(self._alive)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._selector.close()
        for connection in self._sockets:
            connection.close()
        os.close(self._control)
        shutil.rmtree(self.handover, ignore_errors=True)

    def __enter__(self) -> "Engine":
        """The engine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, however the block ended."""
        self.close()
