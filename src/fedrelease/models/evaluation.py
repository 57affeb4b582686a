"""What a classifier does on rows: the confusion matrix and the mean loss, on sites and on the server alike.

Example::

    matrix, loss = look(model, site.holdout, classes=2)
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fedrelease.data.row_files import Rows
from fedrelease.item_outcomes import Outcomes
from fedrelease.models.metrics import Matrix, confusion
from fedrelease.models.precision import matmul
from fedrelease.models.tasks import Classifier

__all__ = ["look", "outcomes", "predict_logits"]

BATCH = 64
DECIMALS = 4


@torch.no_grad()
def predict_logits(model: Classifier, rows: Rows) -> Tensor:
    """Logits, float32 ``[rows, labels]``, in the order of the rows; texts of like length go through together."""
    model.eval()
    logits = torch.empty(len(rows), model.head.out_features)
    for indices in torch.split(torch.argsort(rows.lengths, stable=True), BATCH) if len(rows) else ():
        with matmul("medium"):
            logits[indices] = model(*rows.batch(indices).inputs)
    return logits


def outcomes(model: Classifier, rows: Rows, labels: Sequence[str]) -> Outcomes:
    """What the model says about each row, in the order of the rows; losses are rounded, so that they travel as they are kept."""
    logits, truth = predict_logits(model, rows), torch.as_tensor(rows.labels)
    loss = functional.cross_entropy(logits, truth, reduction="none")
    present = sorted(set(truth.tolist()))
    return Outcomes(
        parts={labels[place]: _digest_of(rows, (truth == place).nonzero().flatten()) for place in present},
        truth=tuple(truth.tolist()),
        predicted=tuple(logits.argmax(1).tolist()),
        loss=tuple(round(nats, DECIMALS) for nats in loss.tolist()),
    )


def _digest_of(rows: Rows, indices: Tensor) -> str:
    """sha256 of the tokens or features of these rows, one by one, so that no other row's length matters."""
    digest = hashlib.sha256()
    for index in indices.tolist():
        given = rows.batch([index]).inputs[0].contiguous()
        digest.update(f"{given.dtype}{list(given.shape)}".encode())
        digest.update(given.numpy().tobytes())
    return digest.hexdigest()


def look(model: Classifier, rows: Rows, *, classes: int) -> tuple[Matrix, float]:
    """Confusion matrix, float64 ``[true, predicted]``, and mean cross-entropy in nats."""
    logits = predict_logits(model, rows)
    labels = torch.as_tensor(rows.labels)
    loss = float(functional.cross_entropy(logits, labels, reduction="sum")) / max(1, len(rows))
    return confusion(labels.tolist(), logits.argmax(1).tolist(), classes=classes), loss
