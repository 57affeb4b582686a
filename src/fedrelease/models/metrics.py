"""Metrics of classification, all from one confusion matrix, so that what a site tells can be made private once.

Example::

    matrix = confusion(labels, predictions, classes=2)         # float64 [true, predicted]
    scores(matrix)["accuracy"]
    report(matrix, ("negative", "positive"))["positive"]["f1"]
"""

from collections.abc import Mapping, Sequence

import numpy
from numpy.typing import NDArray

__all__ = ["Matrix", "confusion", "report", "scores"]

Matrix = NDArray[numpy.float64]


def confusion(
    labels: Sequence[int], predictions: Sequence[int], *, classes: int, weights: Sequence[float] | None = None
) -> Matrix:
    """Counts, float64 ``[classes, classes]``: row = true label, column = predicted label; each item counts 1, or its weight."""
    matrix = numpy.zeros((classes, classes))
    places = (numpy.asarray(labels, dtype=int), numpy.asarray(predictions, dtype=int))
    numpy.add.at(matrix, places, 1.0 if weights is None else numpy.asarray(weights))
    return matrix


def _ratio(above: Matrix, below: Matrix) -> Matrix:
    return numpy.divide(above, below, out=numpy.zeros_like(above), where=below > 0)


def _per_class(matrix: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    matrix = numpy.maximum(matrix, 0.0)  # noise may push a count below zero
    hits, support, predicted = numpy.diag(matrix), matrix.sum(1), matrix.sum(0)
    return _ratio(hits, predicted), _ratio(hits, support), _ratio(2 * hits, support + predicted), support


def scores(matrix: Matrix) -> dict[str, float]:
    """Accuracy, macro-F1 (over classes that appear, as true or predicted) and examples. Empty = no metric at all."""
    clipped = numpy.maximum(matrix, 0.0)
    total = float(clipped.sum())
    if total <= 0:
        return {}
    _, _, f1, support = _per_class(matrix)
    seen = (support + clipped.sum(0)) > 0
    return {
        "accuracy": float(numpy.diag(clipped).sum() / total),
        "macro_f1": float(f1[seen].mean()),
        "examples": total,
    }


def report(matrix: Matrix, labels: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
    """Precision, recall, F1 and support of each label."""
    parts = zip(labels, *_per_class(matrix), strict=True)
    return {
        label: {"precision": float(p), "recall": float(r), "f1": float(f), "support": float(s)}
        for label, p, r, f, s in parts
    }
