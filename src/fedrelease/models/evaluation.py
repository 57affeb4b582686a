"""What a classifier does on rows: the confusion matrix and the mean loss, on sites and on the server alike.

Example::

    matrix, loss = look(model, site.holdout, classes=2)
"""

import torch
from torch import Tensor
from torch.nn import functional

from fedrelease.data.row_files import Rows
from fedrelease.models.metrics import Matrix, confusion
from fedrelease.models.precision import matmul
from fedrelease.models.tasks import Classifier

__all__ = ["look", "predict_logits"]

BATCH = 64


@torch.no_grad()
def predict_logits(model: Classifier, rows: Rows) -> Tensor:
    """Logits, float32 ``[rows, labels]``, in the order of the rows; texts of like length go through together."""
    model.eval()
    logits = torch.empty(len(rows), model.head.out_features)
    for indices in torch.split(torch.argsort(rows.lengths, stable=True), BATCH) if len(rows) else ():
        with matmul("medium"):
            logits[indices] = model(*rows.batch(indices).inputs)
    return logits


def look(model: Classifier, rows: Rows, *, classes: int) -> tuple[Matrix, float]:
    """Confusion matrix, float64 ``[true, predicted]``, and mean cross-entropy in nats."""
    logits = predict_logits(model, rows)
    labels = torch.as_tensor(rows.labels)
    loss = float(functional.cross_entropy(logits, labels, reduction="sum")) / max(1, len(rows))
    return confusion(labels.tolist(), logits.argmax(1).tolist(), classes=classes), loss
