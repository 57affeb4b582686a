"""A number for a text. An item is a text, which is right where the number is told within the tolerance.

Inside, numbers are counted in halves of ``[data] range`` from its middle, so that they lie between -1 and 1 and no row's loss
depends on the unit; outside, in ``predict``, metrics and exports, they are those of the rows.

Example::

    TASKS["regression"].metrics(matrix, sums)     # {'accuracy': 0.71, 'mean_absolute_error': 0.09, 'r2': 0.6, ...}
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from fedrelease.data.cells import BadRow, Cells, Example, shortened
from fedrelease.data.tokens import Batch, Tokenizer, tokenise
from fedrelease.experiment import Data, Model
from fedrelease.experiment_sections import RIGHT
from fedrelease.files import Json
from fedrelease.models.metrics import Matrix, scores
from fedrelease.tasks.contract import AnyBatch, Asked, Judged, Report, Sample, Sums, Task
from fedrelease.wording import plain

__all__ = ["REGRESSION", "NumberPrediction"]

SUMS = ("absolute", "truth", "said", "truth_squared", "said_squared", "product")
LONGEST = 3.0
"""Of a row's six sums: with the truth at one end of the range and what is said at the other, (2, 1, -1, 1, 1, -1)."""
SAME = 0.02
"""Halves of the range: an export in few bits says the same number where it is nearer than that."""
DIGITS = 6
TINY = 1e-9
"""A variance under it is none: rounding alone is as large."""


def _read(cells: Cells, data: Data) -> Example:
    text, number, ends = cells.text(data.text), cells.number(data.label), data.range or (-math.inf, math.inf)
    if not ends[0] <= number <= ends[1]:
        rule = f"between {ends[0]:g} and {ends[1]:g}, the ends of [data] range"
        raise BadRow(f"{data.label!r} is {shortened(number)}, which is not {rule}")
    return Example(text=text, label=RIGHT, content=number, values=(data.scale.into(number), data.scale.near))


def _encode(
    examples: Sequence[Example], labels: Sequence[str], tokenizer: Tokenizer, max_length: int
) -> dict[str, Tensor]:
    del labels
    rows = tokenise([one.text for one in examples], [one.label for one in examples], tokenizer, max_length)
    values = torch.tensor([one.values for one in examples], dtype=torch.float32).reshape(len(examples), 2)
    return {**rows, "values": values}


def _build(base: Any, model: Model, *, seed: int) -> Any:
    from fedrelease.models.classifier import build_classifier

    return build_classifier(base, model, seed=seed, outputs=1)


def _values(batch: AnyBatch) -> tuple[Tensor, Tensor]:
    """The number of each row and how near it one has to be, both float32 ``[rows]``."""
    values = cast(Tensor, cast(Batch, batch).values)
    return values[:, 0], values[:, 1]


def _losses(numbers: Tensor, batch: AnyBatch) -> Tensor:
    """The squared error of each row, float32 ``[rows]``, in halves of the range squared."""
    return (numbers[:, 0] - _values(batch)[0]).square()


def _judge(numbers: Tensor, batch: AnyBatch, labels: Sequence[str]) -> Judged:
    """What is said outside of the range counts as its nearer end; what is no number at all is off."""
    del labels
    truth, near = _values(batch)
    said = numbers[:, 0].clamp(-1, 1)
    away = (said - truth).abs()
    right = torch.full_like(batch.labels, RIGHT)
    t, p = truth.double(), said.double()
    return Judged(
        row=torch.arange(len(truth)),
        truth=right,
        predicted=torch.where(away <= near + 1e-6, right, 1 - right),  # float32 must not put a number just outside
        loss=_losses(numbers, batch),
        sums=torch.stack([away.double(), t, p, t.square(), p.square(), t * p], dim=1),
    )


def _metrics(matrix: Matrix, sums: Sums) -> dict[str, float]:
    """Accuracy is the share of rows within the tolerance. What noise, or equal numbers, leave undefined is left out."""
    told = scores(matrix)
    if not told:
        return {}
    n = told["examples"]
    away, *means = (value / n for value in sums)
    found = {"accuracy": told["accuracy"], "mean_absolute_error": min(max(away, 0.0), 2.0), "examples": n}
    return {**found, **_explained(*means)}


def _explained(
    truth: float, said: float, truth_squared: float, said_squared: float, product: float
) -> dict[str, float]:
    """Of means over rows: Pearson's correlation, and R2 = 1 - E(truth - said)^2 / Var(truth)."""
    spread, own = truth_squared - truth**2, said_squared - said**2
    found = {}
    if spread > TINY:
        found["r2"] = 1 - max(0.0, truth_squared - 2 * product + said_squared) / spread
    if spread > TINY and own > TINY:
        found["pearson"] = min(1.0, max(-1.0, (product - truth * said) / math.sqrt(spread * own)))
    return found


def _report(matrix: Matrix, sums: Sums, labels: Sequence[str]) -> Report:
    """Nothing by label: there are none."""
    del matrix, sums, labels
    return {}


def _same(one: Tensor, other: Tensor) -> Tensor:
    return (one[:, 0] - other[:, 0]).abs() <= SAME


@dataclass(frozen=True, kw_only=True)
class NumberPrediction:
    """The number of a text, within the range."""

    text: str
    number: float

    def document(self) -> dict[str, Json]:
        """Text and number."""
        return {"text": self.text, "number": self.number}

    def lines(self) -> Sequence[Mapping[str, str]]:
        """One line."""
        return [{"number>": f"{self.number:.4g}", "text": plain(self.text)}]


def _predict(asked: Asked) -> list[NumberPrediction]:
    rows = tokenise(asked.texts, [RIGHT] * len(asked.texts), asked.tokenizer, asked.max_length)
    said: dict[int, float] = {}
    for places, _, numbers in asked.run(rows):
        said.update(zip(places.tolist(), numbers[:, 0].clamp(-1, 1).tolist(), strict=True))
    found = [round(asked.data.scale.out(said[place]), DIGITS) for place in range(len(asked.texts))]
    return [NumberPrediction(text=text, number=number) for text, number in zip(asked.texts, found, strict=True)]


REGRESSION = Task(
    name="regression",
    columns=("text", "label"),
    read=_read,
    encode=_encode,
    build=_build,
    losses=_losses,
    judge=_judge,
    sums=SUMS,
    bound=LONGEST,
    metrics=_metrics,
    in_units=("mean_absolute_error",),
    same=_same,
    report=_report,
    shown=("mean_absolute_error", "r2"),
    predict=_predict,
    opens_in_transformers=True,
    sample=Sample(data=Data(range=(-1.0, 1.0))),
    skewed=False,
)
