"""What the sides of the benchmark of many tiny clients share: the task, its rows, its model, and what is told at the end.

Example::

    task = read_task(Path("task.json"))
    table, model = read_table(task), new_model(task)
    accuracy(model, table)                       # of the first weights, on the hold-out

A client's rows are taken in the order in which they were drawn, in batches one after the other: nothing is shuffled, so sides
with the same cohorts take the same steps. Rounds are counted from 1. ``small_pfl`` repeats these few lines, since it runs where
this package need not be.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fedrelease.errors import EngineError

__all__ = [
    "MOMENTUM",
    "Table",
    "Task",
    "accuracy",
    "cohort",
    "new_model",
    "read_table",
    "read_task",
    "rows_of",
    "task_from",
    "tell",
]

MOMENTUM = 0.9
"""Of the local SGD; it begins anew with each client in each round."""
FEATURES = 784
CLASSES = 10
COHORT_STREAM = 1_000_003


@dataclass(frozen=True, kw_only=True)
class Task:
    """One measured federation.

    Attributes:
        clients: of a round, out of the ``population``. rows: of a client. batch: rows of a step. hidden: units of the MLP.
        data: a safetensors file of ``features``, ``labels`` and the same two with ``holdout_`` in front.
    """

    clients: int
    rounds: int
    rows: int
    batch: int
    hidden: int
    lr: float
    seed: int
    data: str
    population: int

    def __post_init__(self) -> None:
        """Refuse what no side can run."""
        if not 0 < self.clients <= self.population:
            raise EngineError(f"a round needs 1 to {self.population} clients", value=self.clients)
        if min(self.rounds, self.rows, self.batch, self.hidden) < 1:
            raise EngineError("rounds, rows, batch and hidden are at least 1", value=self)


@dataclass(frozen=True, kw_only=True)
class Table:
    """All rows; features are float32 of shape ``[rows, 784]``, labels int64 of shape ``[rows]``."""

    features: Tensor
    labels: Tensor
    holdout_features: Tensor
    holdout_labels: Tensor


def read_task(path: Path) -> Task:
    """Read a task; what else stands in the file is left to others."""
    found: Mapping[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return task_from(found)


def task_from(found: Mapping[str, object]) -> Task:
    """Take a task out of the values of a file or of a message."""
    return Task(**{field.name: found[field.name] for field in fields(Task)})  # type: ignore[arg-type]


def read_table(task: Task) -> Table:
    """Read the task's rows."""
    return Table(**load_file(task.data))


def new_model(task: Task) -> nn.Sequential:
    """The MLP with the first weights: torch's own, under the task's seed."""
    torch.manual_seed(task.seed)
    return nn.Sequential(nn.Linear(FEATURES, task.hidden), nn.ReLU(), nn.Linear(task.hidden, CLASSES))


def rows_of(task: Task, client: int, count: int) -> Tensor:
    """Places of a client's rows among ``count``; a row may be drawn twice. Shape ``[rows]``, int64."""
    return torch.from_numpy(np.random.default_rng([task.seed, client]).integers(0, count, task.rows))


def cohort(task: Task, number: int) -> list[int]:
    """Clients of a round, in sorted order."""
    draw = np.random.default_rng([task.seed, COHORT_STREAM, number])
    return sorted(draw.choice(task.population, task.clients, replace=False).tolist())


@torch.no_grad()
def accuracy(model: nn.Module, table: Table) -> float:
    """The share of the hold-out that the model gets right."""
    return float((model(table.holdout_features).argmax(1) == table.holdout_labels).float().mean())


def tell(task: Task, *, round_s: Sequence[float], accuracy: float, version: str) -> None:
    """Print the side's one JSON document; ``round_s`` are seconds from asking the first client to the new weights."""
    told = {"round_s": list(round_s), "clients": task.clients, "accuracy": accuracy, "version": version}
    print(json.dumps(told))
