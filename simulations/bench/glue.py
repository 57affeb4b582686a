"""The same federation from the usual parts: Flower's FedAvg on Ray, PEFT, Opacus, put together as their tutorials show.

Example (the benchmark types this)::

    python -m fedrelease.simulations.bench.glue task.json        # prints one JSON document

Its sites train on the texts of the same rows, from the state of our 0.0.0, through as many rounds, passes and steps, with the
same learning rates, clipping, epsilon and weights, in as many actors of one thread. What differs is what :mod:`glue_site` does
in a call, and that batches and noise are drawn by Opacus.

What is counted: ``started`` is when ``run_simulation`` is called; texts, first state and noise multipliers are there by then.
``first`` is when every node has answered a query: Ray runs, and its actors have imported everything. ``last`` is when the last
round's evaluations are in. Rounds are what lies between the last two. Ray's end is in no time, but in processor time.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from flwr.simulation import run_simulation

from fedrelease.catalog import CATALOG
from fedrelease.client.directives import parse_directives
from fedrelease.data.plan import plan_sites
from fedrelease.data.sources import Table, load_table
from fedrelease.errors import EngineError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import from_document, to_document
from fedrelease.fetch import fetch
from fedrelease.models.bases import open_base
from fedrelease.noise import calibrate
from fedrelease.server.local_model import initial_state
from fedrelease.simulations.bench.glue_site import SETTINGS, Settings, app, loader_batch, settings_of
from fedrelease.simulations.bench.runs import GLUE_STATE, check_fits
from fedrelease.strategies import make_strategy
from fedrelease.update import State, write_state

__all__ = ["main"]

NODES_EVERY_S = 0.05


@dataclass(kw_only=True)
class _Told:
    """What the ServerApp noted: times, rows seen in training, each site's accuracy in the last round, the last arrays."""

    first: float = 0.0
    trained: list[float] = field(default_factory=list)
    evaluated: list[float] = field(default_factory=list)
    seen: int = 0
    accuracy: dict[str, float] = field(default_factory=dict)
    arrays: ArrayRecord | None = None


def main() -> None:
    """Write what the sites need, simulate, print."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    experiment, folder = from_document(task["experiment"]), Path(task["store"])
    check_fits(experiment)
    initial = _prepare(experiment, folder, Path(task["cache"]))
    settings, told = settings_of(folder), _Told()
    started = time.monotonic()
    with TemporaryDirectory(prefix="ray-") as ray:  # short: Ray's sockets lie in it
        run_simulation(
            server_app=_server_app(settings, initial, told),
            client_app=app,
            num_supernodes=len(settings.sites),
            backend_config={
                "init_args": {"num_cpus": task["workers"], "_temp_dir": ray},
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            },
        )
    if told.arrays is None:
        raise EngineError("the simulation ended before its last round")
    write_state(folder / GLUE_STATE, told.arrays.to_torch_state_dict())
    print(json.dumps(_document(settings, told, started)))


def _prepare(experiment: Experiment, folder: Path, cache: Path) -> State:
    """Write texts and settings below ``folder``; return the state of 0.0.0."""
    for alias in (experiment.model.base, experiment.data.source):
        if alias in CATALOG:
            fetch(alias, cache=cache)
    base = open_base(experiment.model.base, cache=cache)
    initial = initial_state(base, experiment)
    folder.mkdir(parents=True)
    rows = _write_texts(experiment, load_table(experiment.data, experiment.model.labels, cache=cache), folder)
    settings = {
        "experiment": to_document(experiment),
        "base": str(base.folder),
        "modules": sorted(name.removesuffix(".lora_A") for name in initial if name.endswith(".lora_A")),
        "freeze": parse_directives(make_strategy(experiment.phases[0].strategy).directives(1)).freeze,
        "sites": sorted(rows),
        "noise": {site: _noise(experiment, count) for site, count in rows.items() if _private(experiment)},
    }
    (folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    return initial


def _write_texts(experiment: Experiment, table: Table, folder: Path) -> Mapping[str, int]:
    """The texts and labels of the rows that ours trains on and holds out; the number of the former by site."""
    plan = plan_sites(experiment, table)
    for name, site in plan.sites.items():
        for part, places in (("train", site.train), ("holdout", site.holdout)):
            lines = [json.dumps({"text": table.texts[row], "label": table.labels[row]}) for row in places]
            (folder / f"{name}.{part}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {name: len(site.train) for name, site in plan.sites.items()}


def _private(experiment: Experiment) -> bool:
    return experiment.privacy.unit != "none"


def _noise(experiment: Experiment, rows: int) -> float:
    """For the whole plan, as Opacus samples: at the rate of one by the number of batches."""
    privacy, training = experiment.privacy, experiment.training
    batches = -(-rows // loader_batch(rows, training, private=True))
    return calibrate(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        sample_rate=1 / batches,
        steps=batches * round(training.epochs) * experiment.rounds,
        accountant=privacy.accountant,
    )


def _server_app(settings: Settings, initial: State, told: _Told) -> ServerApp:
    server = ServerApp()

    @server.main()
    def run(grid: Grid, context: Context) -> None:
        """Wait for all nodes, then leave the rounds to FedAvg."""
        count = len(settings.sites)
        strategy = FedAvg(
            min_train_nodes=count,
            min_evaluate_nodes=count,
            min_available_nodes=count,
            train_metrics_aggr_fn=_hearing(settings, told, told.trained),
            evaluate_metrics_aggr_fn=_hearing(settings, told, told.evaluated),
        )
        _wait_for(grid, count)
        told.first = time.monotonic()
        result = strategy.start(
            grid,
            ArrayRecord(dict(initial)),
            num_rounds=settings.experiment.rounds,
            train_config=ConfigRecord({"folder": str(settings.folder)}),
            evaluate_config=ConfigRecord({"folder": str(settings.folder)}),
        )
        told.arrays = result.arrays if len(told.evaluated) == settings.experiment.rounds else None

    return server


def _wait_for(grid: Grid, count: int) -> None:
    """Until every node is there and has answered."""
    while len(nodes := list(grid.get_node_ids())) < count:
        time.sleep(NODES_EVERY_S)
    asked = [Message(RecordDict(), dst_node_id=node, message_type="query") for node in nodes]
    refused = [answer.error.reason for answer in grid.send_and_receive(asked) if answer.has_error()]
    if refused:
        raise EngineError("an actor does not start", value=refused[0])


def _hearing(settings: Settings, told: _Told, times: list[float]) -> Callable[[list[RecordDict], str], MetricRecord]:
    """Flower's own means, and a note of what came when; a site that failed ends the run instead of being left out."""

    def hear(records: list[RecordDict], weighted_by: str) -> MetricRecord:
        if len(records) != len(settings.sites):
            raise EngineError(f"{len(records)} of {len(settings.sites)} sites answered: the others failed")
        for metrics in (next(iter(record.metric_records.values())) for record in records):
            told.seen += int(str(metrics.get("seen", 0)))
            if "site" in metrics:
                told.accuracy[settings.sites[int(str(metrics["site"]))]] = float(str(metrics["accuracy"]))
        means = aggregate_metricrecords(records, weighted_by)
        times.append(time.monotonic())
        return means

    return hear


def _document(settings: Settings, told: _Told, started: float) -> dict[str, object]:
    ends = [told.first, *told.evaluated]
    train = sum(trained - begun for begun, trained in zip(ends, told.trained, strict=False))
    return {
        "started": started,
        "first": told.first,
        "last": ends[-1],
        "rounds": [end - begun for begun, end in zip(ends, told.evaluated, strict=False)],
        "steps": {"train": train, "evaluate": ends[-1] - told.first - train},
        "accuracy": dict(sorted(told.accuracy.items())),
        "mean_accuracy": sum(told.accuracy.values()) / len(told.accuracy),
        "noise_multiplier": settings.noise,
        "examples": told.seen,
    }


if __name__ == "__main__":
    main()
