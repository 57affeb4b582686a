"""Many tiny clients through a complete simulation: spool, screening, aggregation and release included in each round's time.

Example (the benchmark types this)::

    python -m fedrelease.simulations.bench.small_ours task.json      # prints one JSON document
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from fedrelease.cache import cache_folder
from fedrelease.experiment import (
    Adapter,
    Data,
    Experiment,
    Federation,
    Model,
    Partition,
    Phase,
    Privacy,
    Training,
)
from fedrelease.server.events import Event, Released, RoundStarted
from fedrelease.simulations.simulate import simulate

__all__ = ["experiment_of", "main"]


def experiment_of(task: Mapping[str, int | float | str]) -> Experiment:
    """The task as an experiment: digits, virtual sites, a small network of which every weight is trained."""
    rows, clients = int(task["rows"]), int(task["clients"])
    private = task.get("privacy", "none") != "none"
    return Experiment(
        federation=Federation(name="small", seed=int(task["seed"]), evaluators=0),
        model=Model(
            base=f"mlp:784-{task['hidden']}",
            task="image-classification",
            labels=tuple("0123456789"),
            adapter=Adapter(kind="full"),
        ),
        data=Data(
            source="digits",
            server_holdout=0.2,
            partition=Partition(by="virtual", sites=int(task["population"]), rows=rows, alpha=1e6),
        ),
        training=Training(batch_size=int(task["batch"]), lr=float(task["lr"]), optimizer="sgd"),
        privacy=Privacy(unit="example" if private else "none"),
        phases=(Phase(name="main", rounds=int(task["rounds"]), sites_per_round=clients),),
    )


class _Rounds:
    """From a round's start until its release is in the store."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.accuracy = 0.0
        self._begun = 0.0

    def hear(self, event: Event) -> None:
        if isinstance(event, RoundStarted):
            self._begun = time.monotonic()
        if isinstance(event, Released) and self._begun:
            self.seconds.append(time.monotonic() - self._begun)


def main() -> None:
    """Simulate, then print the seconds of each round."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rounds, store = _Rounds(), Path(task["store"])
    workers = int(task["workers"]) if "workers" in task else None
    simulate(
        experiment_of(task), store=store, cache=cache_folder(), workers=workers, watch=rounds.hear, say=lambda _: None
    )
    from fedrelease.server.store import Store

    head = Store.open(store).head()
    accuracy = head.manifest.metrics.server.get("accuracy", 0.0) if head else 0.0
    print(json.dumps({"round_s": rounds.seconds, "clients": task["clients"], "accuracy": accuracy, "version": "ours"}))


if __name__ == "__main__":
    main()
