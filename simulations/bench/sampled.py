"""One complete simulation in one process, its worker's part sampled.

Example (the benchmark types this)::

    python -m fedrelease.simulations.bench.sampled task.json        # writes the stacks, prints one JSON document

The messages, their files, the worker's answer and the site's ClientApp are those of a simulation. What is missing is the fork and
the socket, in which a worker only waits. The server's part runs between the tasks, in the same process, and is not sampled; nor
is what workers do for the base's own release, before the first round.
"""

import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from flwr.serverapp import Grid

from fedrelease.experiment_document import from_document, to_document
from fedrelease.files import Json
from fedrelease.server.events import Event, RoundStarted
from fedrelease.server.store import Store
from fedrelease.simulations import worker
from fedrelease.simulations.bench.measure import open_place
from fedrelease.simulations.bench.sampler import Sample, fold, folded_text, sampled
from fedrelease.simulations.engine import Outcome
from fedrelease.simulations.grid import LocalGrid
from fedrelease.simulations.nodes import Nodes
from fedrelease.simulations.simulate import federate
from fedrelease.update import state_digest

__all__ = ["SampledWorker", "main"]


class SampledWorker:
    """Takes the engine's place: does one task at a time, here, and from the first round on keeps what was seen of it."""

    def __init__(self, handover: Path) -> None:
        """``handover``: a folder that is there."""
        self.handover, self.workers = handover, 1
        self.samples: list[Sample] = []
        self._in_rounds = False
        self._queue: deque[tuple[str, Mapping[str, Json]]] = deque()

    def submit(self, task: str, frame: Mapping[str, Json]) -> None:
        """Queue a task."""
        self._queue.append((task, frame))

    def collect(self, *, wait_s: float) -> Iterator[Outcome]:
        """Do the next task; there is nothing to wait for."""
        if self._queue:
            task, frame = self._queue.popleft()
            work = partial(worker.answer, frame, self.handover)
            yield task, sampled(work, self.samples) if self._in_rounds else work()

    def hear(self, event: Event) -> None:
        """Sample from the first round on."""
        self._in_rounds = self._in_rounds or isinstance(event, RoundStarted)

    @contextmanager
    def grid_of(self, nodes: Nodes) -> Iterator[Grid]:
        """The sites' Grid."""
        yield LocalGrid(self, nodes=nodes)


def main() -> None:
    """Simulate, write the stacks into the file that the task names, print how many samples and the digest of the last state."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    store, handover = Path(task["store"]), Path(task["handover"])
    handover.mkdir()
    place = open_place(from_document(task["experiment"]), Path(task["cache"]), store.parent, workers=1)
    worker.load({"base": str(place.base.folder), "experiment": to_document(place.experiment)})
    watched = SampledWorker(handover)
    federate(
        place.experiment,
        store=store,
        base=place.base,
        prepared=place.prepared,
        grid_of=watched.grid_of,
        watch=watched.hear,
    )
    Path(task["stacks"]).write_text(folded_text(fold(watched.samples)), encoding="utf-8")
    head = Store.open(store).head()
    print(json.dumps({"samples": len(watched.samples), "state": state_digest(head.state()) if head else ""}))


if __name__ == "__main__":
    main()
