"""What a model does on rows: what it says of each item, and the counts that follow, on sites and on the server alike.

Example::

    told = look(model, site.holdout, ("negative", "positive"))
    told.matrix, told.loss                      # counts [true, predicted]; mean loss of an item in nats
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrelease.data.row_files import Rows
from fedrelease.data.tokens import Batch
from fedrelease.item_outcomes import Outcomes
from fedrelease.models.metrics import Matrix, confusion
from fedrelease.models.precision import matmul
from fedrelease.models.tasks import Classifier, task_of
from fedrelease.tasks.contract import AnyBatch, Judged

__all__ = ["Tally", "answers", "bounded", "judge", "look", "mean_loss", "outcomes", "predict_logits", "tally"]

BATCH = 64
DECIMALS = 4


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What a hold-out adds up to.

    Attributes:
        matrix: float64 ``[true, predicted]``.
        loss: mean of the items, nats.
        sums: as the task names them, with their detail where nothing has to be hidden.
    """

    matrix: Matrix
    loss: float
    sums: tuple[float, ...]


@torch.no_grad()
def answers(model: Classifier, rows: Rows, size: int = BATCH) -> Iterator[tuple[Tensor, AnyBatch, Tensor]]:
    """Row numbers, their batch, and what the model gives; texts of like length go through together."""
    model.eval()
    for indices in torch.split(torch.argsort(rows.lengths, stable=True), size) if len(rows) else ():
        batch = rows.batch(indices)
        with matmul("medium"):
            found = model(*batch.inputs)
        yield indices, batch, found


def predict_logits(model: Classifier, rows: Rows) -> Tensor:
    """Logits, float32 ``[rows, labels]``, in the order of the rows; of a model that says one thing a row."""
    logits = torch.empty(len(rows), model.head.out_features)
    for indices, _, found in answers(model, rows):
        logits[indices] = found
    return logits


@torch.no_grad()
def judge(model: Classifier, rows: Rows, labels: Sequence[str], *, writes: bool = False) -> Judged:
    """What the model says of every item, in the order of the rows; with ``writes`` also what it writes by itself, if it does."""
    task, parts = task_of(model), []
    sums = torch.zeros(len(rows), len(task.sums) + len(task.detail(labels)), dtype=torch.float64)
    for indices, batch, found in answers(model, rows, task.batch):
        part = task.judge(found, batch, labels)
        sums[indices, : part.sums.shape[1]] = part.sums
        parts.append((indices[part.row], part.truth, part.predicted, part.loss))
    if writes and task.write is not None:
        told = task.write(model, rows)
        sums[:, -told.shape[1] :] = told
    empty = torch.zeros(0, dtype=torch.int64)
    row, truth, predicted, loss = (torch.cat(column) for column in zip(*parts, strict=True)) if parts else [empty] * 4
    order = torch.argsort(row, stable=True)
    return Judged(row=row[order], truth=truth[order], predicted=predicted[order], loss=loss[order], sums=sums)


def look(model: Classifier, rows: Rows, labels: Sequence[str]) -> Tally:
    """Counts, mean loss and sums of all rows."""
    return tally(judge(model, rows, labels), classes=len(task_of(model).answers(labels)))


def mean_loss(model: Classifier, rows: Rows) -> float:
    """Nats an item."""
    judged = judge(model, rows, [str(place) for place in range(model.head.out_features)])
    return _mean(judged)


def _mean(judged: Judged) -> float:
    return float(judged.loss.sum()) / max(1, len(judged.loss))


def tally(judged: Judged, *, classes: int) -> Tally:
    """Each item counts as one."""
    matrix = confusion(judged.truth.tolist(), judged.predicted.tolist(), classes=classes)
    return Tally(matrix=matrix, loss=_mean(judged), sums=tuple(judged.sums.sum(0).tolist()))


def bounded(judged: Judged, *, classes: int, bound: float, sums: int) -> Tally:
    """The same with a bound on what one row can do, for noise to hide.

    A row's items weigh ``1 / their number``; the first ``sums`` of its sums, which are all that is left, are divided by that
    number and scaled down to be at most ``bound`` long.

    Guarantees: one row more or less moves the matrix by at most 1, and the sums by at most ``bound`` (L2).
    """
    items = torch.bincount(judged.row, minlength=len(judged.sums)).double()
    weight = (1 / items.clamp(min=1))[judged.row]
    matrix = confusion(judged.truth.tolist(), judged.predicted.tolist(), classes=classes, weights=weight.tolist())
    shares = judged.sums[:, :sums] / items.clamp(min=1)[:, None]
    shares = torch.nan_to_num(shares, nan=0.0, posinf=0.0, neginf=0.0)
    lengths = shares.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return Tally(
        matrix=matrix, loss=_mean(judged), sums=tuple((shares * (bound / lengths).clamp(max=1)).sum(0).tolist())
    )


def outcomes(judged: Judged, rows: Rows, labels: Sequence[str]) -> Outcomes:
    """What the model says about each item, in the order of the rows; losses are rounded, so that they travel as they are kept.

    ``labels``: the task's answers, in which items are counted.
    """
    present = sorted(set(judged.truth.tolist()))
    return Outcomes(
        parts={labels[place]: _digest_of(rows, judged.row[judged.truth == place]) for place in present},
        truth=tuple(judged.truth.tolist()),
        predicted=tuple(judged.predicted.tolist()),
        loss=tuple(round(nats, DECIMALS) for nats in judged.loss.tolist()),
    )


def _digest_of(rows: Rows, indices: Tensor) -> str:
    """sha256 of the tokens, with their values, or features of these rows, one by one, so that no other row's length matters.

    A row with several of the items goes in once, and then how many of them it has.
    """
    digest = hashlib.sha256()
    found, counts = torch.unique_consecutive(indices, return_counts=True)
    for index, count in zip(found.tolist(), counts.tolist(), strict=True):
        batch = rows.batch([index])
        values = batch.values if isinstance(batch, Batch) else None
        for given in (batch.inputs[0], *([] if values is None else [values])):
            digest.update(f"{given.dtype}{list(given.shape)}".encode())
            digest.update(given.contiguous().numpy().tobytes())
        digest.update(f"x{count}".encode() if count > 1 else b"")
    return digest.hexdigest()
