"""Flower's own simulation with Ray, beside our rounds: it runs in a thread, and hands over its Grid.

Example::

    with ray_sites(Ray(), [{"site": "amazon", ...}], workers=2, experiment=experiment, home=home) as grid:
        server_app(watch)(grid, context)

Flower wants to run the ServerApp itself, in a thread from which neither an interruption nor an error comes out as it is. So the
one that it gets only hands over the Grid and waits; ours runs where it always runs.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from queue import Empty, SimpleQueue

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run

from fedrelease.errors import EngineError
from fedrelease.experiment import Experiment
from fedrelease.simulations.engine import default_workers
from fedrelease.simulations.ray_cluster import Ray, RayRun, ray_cluster
from fedrelease.simulations.ray_log import stderr_written_to
from fedrelease.simulations.ray_site import ASK, READY, RaySettings

__all__ = ["RayGrid", "ray_sites"]

START_S = 300.0
STOP_S = 30.0
POLL_S = 0.1


@contextlib.contextmanager
def ray_sites(
    which: Ray, nodes: Sequence[Mapping[str, str]], *, workers: int | None, experiment: Experiment, home: Path
) -> Iterator["RayGrid"]:
    """The Grid of a Flower simulation with these nodes, once its actors are ready; all of it ends with the block.

    Raises:
        EngineError: it did not start, or a machine does not see the sites' folders.
    """
    count = workers or (default_workers(len(nodes)) if which.address is None else len(nodes))
    with ray_cluster(which, most=min(count, len(nodes)), home=home) as run:
        RaySettings(nodes=nodes, experiment=experiment).write(run.folder)
        simulation = _Simulation(run, len(nodes))
        try:
            grid = RayGrid(simulation.grid(), check=simulation.check, log=run.log.name)
            _wait_until_ready(grid, run)
            yield grid
        except BaseException:
            RaySettings.withdraw(run.folder)  # actors end in the middle of their work: nobody waits for it any more
            raise
        finally:
            with stderr_written_to(run.log):
                simulation.end()


class _Simulation:
    """Flower's ``run_simulation`` in a thread."""

    def __init__(self, run: RayRun, nodes: int) -> None:
        self._run, self._nodes = run, nodes
        self._grids: SimpleQueue[Grid] = SimpleQueue()
        self._done = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._simulate, daemon=True)
        self._thread.start()

    def _simulate(self) -> None:
        from flwr.simulation import run_simulation

        from fedrelease.simulations.ray_site import app

        config = {"client_resources": dict(self._run.resources)}
        try:
            run_simulation(self._server(), app, self._nodes, backend_config=config)  # type: ignore[arg-type]  # it is read as any mapping
        except Exception as error:  # told by check()
            self._error = error

    def _server(self) -> ServerApp:
        application = ServerApp()

        @application.main()
        def main(grid: Grid, context: Context) -> None:
            self._grids.put(grid)
            self._done.wait()

        return application

    def grid(self) -> Grid:
        """The simulation's own Grid, as soon as it has all nodes."""
        grid: Grid | None = None
        for _ in _until(START_S):
            self.check()
            with contextlib.suppress(Empty):
                grid = grid or self._grids.get(timeout=POLL_S)
            if grid is not None and len(list(grid.get_node_ids())) == self._nodes:
                return grid
        raise EngineError(f"Flower's simulation was not there within {START_S:g} s", hint=f"read {self._run.log}")

    def check(self) -> None:
        """Refuse to go on when it has ended.

        Raises:
            EngineError: it has.
        """
        if not self._thread.is_alive():
            cause = self._error.__cause__ or self._error if self._error else None
            raise EngineError(
                "Flower's simulation has ended",
                value=str(cause).partition("\n")[0] if cause else None,
                rule="the engine needs it until the last round",
                hint=f"read {self._run.log}; then run the same command again",
            ) from self._error

    def end(self) -> None:
        """Let it end, and wait for that."""
        self._done.set()
        self._thread.join(STOP_S)


def _until(seconds: float) -> Iterator[float]:
    """Again and again, for so long."""
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        yield now


def _wait_until_ready(grid: "RayGrid", run: RayRun) -> None:
    """Every actor loads the base before the first deadline runs."""
    content = RecordDict({"config": ConfigRecord({ASK: READY})})
    places = islice(cycle(grid.get_node_ids()), run.actors)
    pending = set(grid.push_messages([Message(content, dst_node_id=node, message_type="query") for node in places]))
    for _ in _until(START_S):
        for message in grid.pull_messages(tuple(pending)):
            pending.discard(message.metadata.reply_to_message_id)
            if message.has_error():
                raise EngineError(
                    "a machine of Ray's is not ready",
                    value=message.error.reason,
                    rule="every machine has this fedrelease, and sees the cache and the store's folder at the same paths",
                    hint=f"see {run.log}",
                )
        if not pending:
            return
        time.sleep(POLL_S)
    raise EngineError(f"no actor was ready within {START_S:g} s", value=len(pending), hint=f"read {run.log}")


class RayGrid(Grid):
    """Flower's Grid, which notices when the simulation behind it has ended, and says in words that a process has died."""

    def __init__(self, grid: Grid, *, check: Callable[[], None], log: str) -> None:
        """``check`` raises when the simulation has ended; ``log`` is the name of the file to read then."""
        self._grid, self._check, self._log = grid, check, log
        self._asked: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Flower's own name for what this grid works on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to one node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """All sites."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages for the actors; returns an id for each, in their order."""
        messages = list(messages)
        names = list(self._grid.push_messages(messages))
        self._asked.update(zip(names, messages, strict=True))
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Replies that are there."""
        self._check()
        for message in self._grid.pull_messages(message_ids):
            asked = self._asked.pop(message.metadata.reply_to_message_id)
            yield self._lost(asked) if message.has_error() and _of_ray(message.error) else message

    def _lost(self, asked: Message) -> Message:
        reason = f"the site's process died; see {self._log}"
        return Message(Error(ErrorCode.CLIENT_APP_CRASHED, reason), reply_to=asked)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send all and wait for all: for Flower's own strategies. Ours pull replies one at a time."""
        return self._grid.send_and_receive(messages, timeout=timeout)


def _of_ray(error: Error) -> bool:
    """Whether this is no answer of a site, whose errors have another code, but Ray's word about a process."""
    return error.code != ErrorCode.CLIENT_APP_RAISED_EXCEPTION
