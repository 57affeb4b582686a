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
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeAlias
from uuid import uuid4

from fedrelease.errors import EngineError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import to_document
from fedrelease.files import Json
from fedrelease.simulations.leftovers import sweep_handovers
from fedrelease.simulations.wire import receive, send

__all__ = ["Engine", "default_workers"]

KERNEL_CACHES = {"LRU_CACHE_CAPACITY": "8", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
"""torch keeps a compiled kernel for each shape it met, 1,024 by default: gigabytes, where every batch has its own length.

There are two caches, one above the other. What the upper one forgets is found in the lower one at no cost that could be measured;
with fewer than 64 in the lower one, steps take longer.
"""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
START_S = 180.0
STOP_S = 5.0
MOST_HANDLES = 64

Outcome: TypeAlias = tuple[str, Mapping[str, Json]]
"""A task's name, with ``{"content": ...}`` or ``{"failed": reason}``."""


def default_workers(sites: int | None = None) -> int:
    """One single-threaded worker per core that this process may use, and no more than there are sites, if that is known."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, cores if sites is None else min(cores, sites))


class Engine:
    """Starts workers, hands tasks to idle ones in order of submission, and collects what they answer.

    A worker that dies (out of memory, killed) fails its task only; the nursery replaces it and hands over a fresh socket, so
    that half a frame of the dead one harms nobody. ``home`` belongs to one engine at a time: the caller sees to that.
    """

    def __init__(self, *, base: Path, experiment: Experiment, workers: int, home: Path) -> None:
        """Begin to start; the workers load while the caller goes on with other things."""
        sweep_handovers(home)
        self.workers = workers
        self.handover = home / f"handover-{uuid4().hex}"
        self.handover.mkdir(parents=True)
        self.log = home / "engine.log"
        self._queue: deque[tuple[str, Mapping[str, Json]]] = deque()
        self._busy: dict[int, str] = {}
        self._sockets: dict[int, socket.socket] = {}
        self._handles: deque[int] = deque()
        self._heard = b""
        self._process = self._spawn(base, experiment, workers)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._control, selectors.EVENT_READ, None)

    def _spawn(self, base: Path, experiment: Experiment, workers: int) -> subprocess.Popen[bytes]:
        alive, self._alive = os.pipe()
        self._control, control = socket.socketpair()
        settings = {
            "workers": workers,
            "alive": alive,
            "control": control.fileno(),
            "base": str(base),
            "handover": str(self.handover),
            "experiment": to_document(experiment),
        }
        with control, self.log.open("ab") as log:
            process = subprocess.Popen(  # -P: a file in the user's folder must not pass for a library
                [sys.executable, "-P", "-m", "fedrelease.simulations.worker", json.dumps(settings)],
                pass_fds=(alive, control.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **ONE_THREAD, **KERNEL_CACHES, "TOKENIZERS_PARALLELISM": "false"},
                start_new_session=True,
            )
        os.close(alive)
        return process

    def wait_until_ready(self) -> None:
        """Wait for the first worker; nothing may have been submitted yet.

        Raises:
            EngineError: the workers refused the experiment, or did not start.
        """
        until = time.monotonic() + START_S
        while not self._sockets:
            if time.monotonic() > until:
                raise EngineError(
                    f"no worker was ready within {START_S:g} s", value=str(self.log), hint=f"read {self.log}"
                )
            for _ in self.collect(wait_s=1.0):
                pass

    @property
    def idle(self) -> bool:
        """Whether every task has its outcome, so that somebody else may use the engine."""
        return not self._queue and not self._busy

    def submit(self, task: str, frame: Mapping[str, Json]) -> None:
        """Queue a task; its outcome comes out of :meth:`collect` under the same name."""
        self._queue.append((task, {**frame, "id": task}))
        self._feed()

    def collect(self, *, wait_s: float) -> Iterator[Outcome]:
        """What has been answered, waiting at most ``wait_s`` for the first: ``{"content": ...}`` or ``{"failed": reason}``.

        Raises:
            EngineError: the workers did not start, or all of them are gone.
        """
        places = [key.data for key, _ in self._selector.select(wait_s)]
        for place in places:
            if place in self._sockets:
                yield from self._take(place)
        if None in places:
            yield from self._hear()
        self._feed()

    def _feed(self) -> None:
        idle = [place for place in self._sockets if place not in self._busy]
        for place in idle[: len(self._queue)]:
            task, frame = self._queue.popleft()
            try:
                send(self._sockets[place], frame)
            except ConnectionError:  # it died idle: another one does the task
                self._queue.appendleft((task, frame))
                self._drop(place)
            else:
                self._busy[place] = task

    def _take(self, place: int) -> Iterator[Outcome]:
        """One answer of a worker. If it died instead, its socket goes, and the nursery will tell the rest."""
        frame = receive(self._sockets[place])
        if frame is None:
            self._drop(place)
        elif self._busy.get(place) == frame.get("id"):
            task = self._busy.pop(place)
            self._feed()  # before the answer is looked at: the worker goes on meanwhile
            yield task, {name: value for name, value in frame.items() if name != "id"}

    def _drop(self, place: int) -> None:
        connection = self._sockets.pop(place)
        self._selector.unregister(connection)
        connection.close()

    def _hear(self) -> Iterator[Outcome]:
        """What the nursery tells: the socket of each new worker, with the status of the dead one that it replaces."""
        data, handles, _, _ = socket.recv_fds(self._control, 1 << 16, MOST_HANDLES)
        if not data:
            raise self._gone()
        self._handles.extend(handles)
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if "refused" in event:
                raise EngineError(**event["refused"])
            yield from self._welcome(event["place"], event["status"])

    def _welcome(self, place: int, status: int | None) -> Iterator[Outcome]:
        while place in self._sockets:  # what the dead one answered in time counts
            yield from self._take(place)
        task = self._busy.pop(place, None)
        connection = socket.socket(fileno=self._handles.popleft())
        connection.set_inheritable(False)
        self._sockets[place] = connection
        self._selector.register(connection, selectors.EVENT_READ, place)
        if task is not None:
            yield task, {"failed": f"the site's process died with status {status}; see {self.log.name}"}

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
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._selector.close()
        for connection in (*self._sockets.values(), self._control):
            connection.close()
        for handle in self._handles:
            os.close(handle)
        shutil.rmtree(self.handover, ignore_errors=True)

    def __enter__(self) -> "Engine":
        """The engine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, however the block ended."""
        self.close()
