"""Many tiny clients by Flower as its tutorials show it: FedAvg and a ClientApp on ``run_simulation``, which is Ray.

Example (the benchmark types this; it needs the extra ``ray``)::

    python -m fedrelease.simulations.bench.small_ray task.json       # prints one JSON document

Every client of the population is a node; FedAvg draws the cohort of a round by itself, so cohorts are not those of the other
sides unless all clients take part. There are as many actors as this process may use processors, of one thread each: Ray is
given the whole machine. A round is what lies between two calls of FedAvg's ``evaluate_fn``, which gets the new weights as soon
as they are there and does no more than note them; clients are not asked to evaluate. The first round starts the actors.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from flwr.simulation import run_simulation

from fedrelease.errors import EngineError
from fedrelease.simulations.bench.small_ray_site import app
from fedrelease.simulations.bench.small_task import Task, accuracy, new_model, read_table, read_task, tell

__all__ = ["main"]


@dataclass(kw_only=True)
class _Noted:
    """When the first weights and those after each round were there, and the last of them."""

    times: list[float] = field(default_factory=list)
    arrays: ArrayRecord | None = None


def main() -> None:
    """Simulate, print."""
    torch.set_num_threads(1)
    task, noted = read_task(Path(sys.argv[1])), _Noted()
    with TemporaryDirectory(prefix="ray-") as ray:  # short: Ray's sockets lie in it
        run_simulation(
            server_app=_server_app(task, noted),
            client_app=app,
            num_supernodes=task.population,
            backend_config={
                "init_args": {"num_cpus": len(os.sched_getaffinity(0)), "_temp_dir": ray},
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            },
        )
    if noted.arrays is None or len(noted.times) != task.rounds + 1:
        raise EngineError("the simulation ended before its last round")
    model = new_model(task)
    model.load_state_dict(noted.arrays.to_torch_state_dict())
    round_s = [after - before for before, after in zip(noted.times, noted.times[1:], strict=False)]
    tell(task, round_s=round_s, accuracy=accuracy(model, read_table(task)), version=f"flwr {version('flwr')}")


def _server_app(task: Task, noted: _Noted) -> ServerApp:
    server = ServerApp()

    @server.main()
    def run(grid: Grid, context: Context) -> None:
        """Leave the rounds to FedAvg."""
        strategy = FedAvg(
            fraction_train=task.clients / task.population,
            fraction_evaluate=0.0,
            min_train_nodes=task.clients,
            min_available_nodes=task.population,
            train_metrics_aggr_fn=_counting(task),
        )
        strategy.start(
            grid,
            ArrayRecord(new_model(task).state_dict()),
            num_rounds=task.rounds,
            train_config=ConfigRecord(asdict(task)),
            evaluate_fn=_noting(noted),
        )

    return server


def _noting(noted: _Noted) -> Callable[[int, ArrayRecord], MetricRecord | None]:
    def note(number: int, arrays: ArrayRecord) -> None:
        noted.times.append(time.monotonic())
        noted.arrays = arrays

    return note


def _counting(task: Task) -> Callable[[list[RecordDict], str], MetricRecord]:
    """Flower's own means; a client that failed ends the run instead of being left out."""

    def count(records: list[RecordDict], weighted_by: str) -> MetricRecord:
        if len(records) != task.clients:
            raise EngineError(f"{len(records)} of {task.clients} clients answered: the others failed")
        return aggregate_metricrecords(records, weighted_by)

    return count


if __name__ == "__main__":
    main()
