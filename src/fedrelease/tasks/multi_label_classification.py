"""Any number of labels for a text, or none. An item is a label of a text, which applies or does not.

Confusion matrices count ``not spam`` and ``spam`` for each label: two by two, and nothing outside of these blocks.

Example::

    TASKS["multi-label-classification"].answers(("spam", "offer"))     # ('not spam', 'spam', 'not offer', 'offer')
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from fedrelease.data.cells import Cells, Example
from fedrelease.data.tokens import Batch, Tokenizer, tokenise
from fedrelease.experiment import Data
from fedrelease.files import Json
from fedrelease.many_labels import negated
from fedrelease.models.metrics import Matrix
from fedrelease.tasks.contract import AnyBatch, Asked, Judged, Report, Sums, Task
from fedrelease.tasks.text_classification import TEXT_CLASSIFICATION
from fedrelease.wording import number, plain

__all__ = ["MULTI_LABEL_CLASSIFICATION", "LabelsPrediction"]

LEAST = 0.5
"""A label is told where its probability is above it."""


def _read(cells: Cells, data: Data) -> Example:
    """A row as a whole goes by the first of the experiment's labels that it has; without any, by the first of all."""
    places = cells.many(data.label)
    values = tuple(float(place in places) for place in range(len(cells.labels)))
    names: list[str] = sorted(cells.labels[place] for place in places)
    return Example(text=cells.text(data.text), label=min(places, default=0), content=names, values=values)


def _named(example: Example, labels: Sequence[str]) -> Sequence[str]:
    del labels
    return cast(list[str], example.content)


def _encode(
    examples: Sequence[Example], labels: Sequence[str], tokenizer: Tokenizer, max_length: int
) -> dict[str, Tensor]:
    rows = tokenise([one.text for one in examples], [one.label for one in examples], tokenizer, max_length)
    values = torch.tensor([one.values for one in examples], dtype=torch.float32).reshape(len(examples), len(labels))
    return {**rows, "values": values}


def _answers(labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(answer for label in labels for answer in (negated(label), label))


def _each(logits: Tensor, batch: AnyBatch) -> Tensor:
    """Binary cross-entropy of each label of each row, float32 ``[rows, labels]``."""
    wanted = cast(Tensor, cast(Batch, batch).values)
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def _losses(logits: Tensor, batch: AnyBatch) -> Tensor:
    """The mean over a row's labels."""
    return _each(logits, batch).mean(1)


def _judge(logits: Tensor, batch: AnyBatch, labels: Sequence[str]) -> Judged:
    """Items go row by row, and label by label in each. The one sum is, of a row that is right as a whole, its number of items."""
    del labels
    rows, count = logits.shape
    truth, said = cast(Tensor, cast(Batch, batch).values) > LEAST, logits > 0
    begins = 2 * torch.arange(count)
    return Judged(
        row=torch.arange(rows).repeat_interleave(count),
        truth=(begins + truth).flatten(),
        predicted=(begins + said).flatten(),
        loss=_each(logits, batch).flatten(),
        sums=((truth == said).all(1) * count).double()[:, None],
    )


def _blocks(matrix: Matrix) -> Matrix:
    """Float64 ``[labels, 2, 2]``: of each label true and said; noise may have pushed a count below zero."""
    return numpy.array([matrix[at : at + 2, at : at + 2] for at in range(0, len(matrix), 2)])


def _shares(blocks: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Precision, recall and F1 of each label, float64 ``[labels]``; 0 where nothing is to be divided."""
    hits, there, said = blocks[:, 1, 1], blocks[:, 1].sum(1), blocks[:, :, 1].sum(1)
    return tuple(
        numpy.divide(above, below, out=numpy.zeros_like(above), where=below > 0)
        for above, below in ((hits, said), (hits, there), (2 * hits, there + said))
    )


def _metrics(matrix: Matrix, sums: Sums) -> dict[str, float]:
    """Accuracy of single labels, where most are absent; F1 over all, and the mean F1 of labels that appear; rows wholly right."""
    each = _blocks(matrix)
    together, blocks = numpy.maximum(each.sum(0, keepdims=True), 0.0), numpy.maximum(each, 0.0)
    total = float(together.sum())  # noise of either sign adds up to little, as long as nothing is cut off before
    if total <= 0:
        return {}
    seen = blocks[:, 1].sum(1) + blocks[:, 0, 1] > 0
    return {
        "accuracy": float((together[0, 0, 0] + together[0, 1, 1]) / total),
        "micro_f1": float(_shares(together)[2][0]),
        "macro_f1": float(_shares(blocks)[2][seen].mean()) if seen.any() else 0.0,
        "subset_accuracy": min(1.0, max(0.0, sums[0] / total)),
        "examples": total,
    }


def _report(matrix: Matrix, sums: Sums, labels: Sequence[str]) -> Report:
    del sums
    blocks = numpy.maximum(_blocks(matrix), 0.0)
    columns = zip(labels, *_shares(blocks), blocks[:, 1].sum(1), strict=True)
    return {
        label: {"precision": float(p), "recall": float(r), "f1": float(f), "support": float(s)}
        for label, p, r, f, s in columns
    }


def _same(one: Tensor, other: Tensor) -> Tensor:
    return ((one > 0) == (other > 0)).flatten()


@dataclass(frozen=True, kw_only=True)
class LabelsPrediction:
    """The labels of a text, the most likely first, and the probability of every label (sigmoid, not calibrated)."""

    text: str
    labels: tuple[str, ...]
    scores: Mapping[str, float]

    def document(self) -> dict[str, Json]:
        """Text, its labels, and the scores of all labels."""
        return {"text": self.text, "labels": list(self.labels), "scores": dict(self.scores)}

    def lines(self) -> Sequence[Mapping[str, str]]:
        """One line."""
        told = ", ".join(f"{label} {number(self.scores[label])}" for label in self.labels)
        return [{"labels": told or "none", "text": plain(self.text)}]


def _predict(asked: Asked) -> list[LabelsPrediction]:
    rows = tokenise(asked.texts, [0] * len(asked.texts), asked.tokenizer, asked.max_length)
    found: dict[int, LabelsPrediction] = {}
    for places, _, logits in asked.run(rows):
        for place, own in zip(places.tolist(), torch.sigmoid(logits).tolist(), strict=True):
            scores = {label: round(score, 6) for label, score in zip(asked.labels, own, strict=True)}
            told = sorted((label for label in scores if scores[label] > LEAST), key=lambda label: -scores[label])
            found[place] = LabelsPrediction(text=asked.texts[place], labels=tuple(told), scores=scores)
    return [found[place] for place in range(len(asked.texts))]


MULTI_LABEL_CLASSIFICATION = Task(
    name="multi-label-classification",
    columns=("text", "label"),
    read=_read,
    named=_named,
    answers=_answers,
    encode=_encode,
    build=TEXT_CLASSIFICATION.build,
    losses=_losses,
    judge=_judge,
    sums=("whole",),
    metrics=_metrics,
    same=_same,
    report=_report,
    shown=("micro_f1", "macro_f1", "subset_accuracy"),
    predict=_predict,
    opens_in_transformers=True,
    items_a_row="many",
    skewed=False,
)
