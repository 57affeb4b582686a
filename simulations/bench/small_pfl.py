"""Many tiny clients by Apple's ``pfl``: federated averaging of its own on its SimulatedBackend, in one process.

Example (the benchmark types this, with an interpreter that has ``pfl``)::

    PFL_PYTHON -P simulations/bench/small_pfl.py task.json       # prints one JSON document

An environment for it is made with::

    python -m venv pfl-env
    pfl-env/bin/pip install torch==2.13.0
    pfl-env/bin/pip install "pfl[pytorch]==0.6.*" safetensors

Its users are the task's clients, in the task's cohorts. ``pfl`` evaluates the clients of its iteration 0 before and after
training, whatever one asks for: that is in the first round's seconds, which the reader drops. No later round evaluates.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from pfl.version import __version__
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

# Task, rows, cohorts, model and accuracy are those of small_task, repeated: this package need not be where pfl is.

__all__ = ["Clock", "Mlp", "main"]

MOMENTUM = 0.9
FEATURES = 784
CLASSES = 10
COHORT_STREAM = 1_000_003


class Mlp(nn.Module):
    """The MLP with the two methods that ``pfl`` asks for."""

    def __init__(self, hidden: int) -> None:
        """Take torch's first weights."""
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """The mean over a batch."""
        return cross_entropy(self.layers(features), labels)

    @torch.no_grad()
    def metrics(self, features: Tensor, labels: Tensor) -> Mapping[str, object]:
        """Accuracy."""
        right = int((self.layers(features).argmax(1) == labels).sum())
        return {"accuracy": Weighted(right, len(labels))}


class Clock:
    """A callback that notes when training begins and when each round's weights are there."""

    def __init__(self) -> None:
        """Note nothing yet."""
        self.times: list[float] = []

    def on_train_begin(self, *, model: object) -> object:
        """Note the time."""
        self.times.append(time.monotonic())
        return Metrics()

    def after_central_iteration(self, metrics: object, model: object, *, central_iteration: int) -> tuple[bool, object]:
        """Note the time and go on."""
        self.times.append(time.monotonic())
        return False, Metrics()

    def on_train_end(self, *, model: object) -> None:
        """Do nothing."""


def main() -> None:
    """Read, train, print."""
    torch.set_num_threads(1)
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    table, clock = load_file(task["data"]), Clock()
    np.random.seed(task["seed"])
    torch.manual_seed(task["seed"])
    mlp = Mlp(task["hidden"])
    _run(mlp, task, _users(task, table), clock)
    right = mlp.layers(table["holdout_features"]).argmax(1) == table["holdout_labels"]
    told = {
        "round_s": [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)],
        "clients": task["clients"],
        "accuracy": float(right.float().mean()),
        "version": f"pfl {__version__}",
    }
    print(json.dumps(told))


def _users(task: Mapping[str, Any], table: Mapping[str, Tensor]) -> Any:
    """The population; each client's draw of rows is known by now, the rows are gathered in the round."""
    features, labels = table["features"], table["labels"]
    owned = [_rows_of(task, client, len(labels)) for client in range(task["population"])]
    asked = _asked(task)

    def user(client: int) -> Any:
        rows = owned[client]
        return PyTorchTensorDataset((features[rows], labels[rows]), user_id=str(client))

    return FederatedDataset(user, lambda: next(asked))


def _rows_of(task: Mapping[str, Any], client: int, count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([task["seed"], client]).integers(0, count, task["rows"]))


def _asked(task: Mapping[str, Any]) -> Iterator[int]:
    """The clients of all rounds, one after the other."""
    for number in range(1, task["rounds"] + 1):
        draw = np.random.default_rng([task["seed"], COHORT_STREAM, number])
        yield from sorted(draw.choice(task["population"], task["clients"], replace=False).tolist())


def _run(mlp: Mlp, task: Mapping[str, Any], users: Any, clock: Clock) -> None:
    """Train in place through all rounds."""
    model = PyTorchModel(
        model=mlp,
        local_optimizer_create=partial(torch.optim.SGD, momentum=MOMENTUM),
        central_optimizer=torch.optim.SGD(mlp.parameters(), lr=1.0),
    )
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=task["rounds"],
            evaluation_frequency=task["rounds"],
            train_cohort_size=task["clients"],
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=users, val_data=users),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=task["lr"], local_batch_size=task["batch"]
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[clock],
        send_metrics_to_platform=False,
    )


if __name__ == "__main__":
    main()
