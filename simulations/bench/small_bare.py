"""Many tiny clients, one after the other: a loop of plain PyTorch in one process and one thread, with nothing around it.

Example (the benchmark types this)::

    python -m fedrelease.simulations.bench.small_bare task.json      # prints one JSON document

One model stays in memory: it is given the global weights, trained on a client's rows, and what it moved is added to a sum. The
SGD is written out, since ``torch.optim.SGD`` made anew for each client takes about a third more time at this size. Each
client's draw of rows is known before the clock starts; the rows themselves are gathered in the round.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedrelease.simulations.bench.small_task import (
    MOMENTUM,
    Table,
    Task,
    accuracy,
    cohort,
    new_model,
    read_table,
    read_task,
    rows_of,
    tell,
)

__all__ = ["federate", "main"]


def main() -> None:
    """Read, train, print."""
    torch.set_num_threads(1)
    task = read_task(Path(sys.argv[1]))
    table, model = read_table(task), new_model(task)
    round_s = federate(model, task, table)
    version = f"torch {torch.__version__.partition('+')[0]}"
    tell(task, round_s=round_s, accuracy=accuracy(model, table), version=version)


def federate(model: nn.Module, task: Task, table: Table) -> list[float]:
    """Train in place through all rounds; the seconds of each."""
    owned = [rows_of(task, client, len(table.labels)) for client in range(task.population)]
    round_s = []
    for number in range(1, task.rounds + 1):
        begun = time.monotonic()
        _round(model, task, table, [owned[client] for client in cohort(task, number)])
        round_s.append(time.monotonic() - begun)
    return round_s


@torch.no_grad()
def _round(model: nn.Module, task: Task, table: Table, cohort_rows: Sequence[Tensor]) -> None:
    """Each client from the same weights; then the mean of what they moved."""
    weights = list(model.parameters())
    sent = [weight.detach().clone() for weight in weights]
    moved = [torch.zeros_like(weight) for weight in weights]
    for rows in cohort_rows:
        for weight, value in zip(weights, sent, strict=True):
            weight.copy_(value)
        _train(model, weights, task, table.features[rows], table.labels[rows])
        for total, weight, value in zip(moved, weights, sent, strict=True):
            total.add_(weight).sub_(value)
    for weight, value, total in zip(weights, sent, moved, strict=True):
        weight.copy_(value).add_(total, alpha=1 / task.clients)


def _train(model: nn.Module, weights: Sequence[nn.Parameter], task: Task, features: Tensor, labels: Tensor) -> None:
    """One pass of SGD with momentum, in place."""
    speed: Sequence[Tensor] | None = None
    batches = zip(torch.split(features, task.batch), torch.split(labels, task.batch), strict=True)
    for some, wanted in batches:
        with torch.enable_grad():
            slope = torch.autograd.grad(cross_entropy(model(some), wanted), weights)
        if speed is None:
            speed = slope
        else:
            for fast, steep in zip(speed, slope, strict=True):
                fast.mul_(MOMENTUM).add_(steep)
        for weight, fast in zip(weights, speed, strict=True):
            weight.sub_(fast, alpha=task.lr)


if __name__ == "__main__":
    main()
