"""What a task is: everything that the rest of fedrelease asks of it, in one frozen object.

A task is one file beside this one, with one :class:`Task` in it, and one entry in ``fedrelease.tasks.TASKS``.

Example::

    task = TASKS["token-classification"]
    task.losses(model(*batch.inputs), batch)            # float32 [rows]: what training adds up, each row's own
    task.judge(model(*batch.inputs), batch, labels)     # what gates and metrics count, item by item
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from fedrelease.data.cells import Cells, Example
from fedrelease.data.row_files import Rows
from fedrelease.data.tokens import Batch, Tokenizer
from fedrelease.data.vectors import VectorBatch
from fedrelease.experiment import Data
from fedrelease.files import Json
from fedrelease.models.metrics import Matrix, report, scores
from fedrelease.tasks.loss_options import LossOptions

__all__ = [
    "TAB",
    "AnyBatch",
    "Asked",
    "Judged",
    "Prediction",
    "Report",
    "Run",
    "Sample",
    "Sums",
    "Task",
    "class_metrics",
    "class_report",
    "measured",
    "own_label",
    "same_label",
]

AnyBatch: TypeAlias = Batch | VectorBatch
Sums: TypeAlias = Sequence[float]
TAB = "\t"
Report: TypeAlias = Mapping[str, Mapping[str, float]]
Run: TypeAlias = Callable[[Mapping[str, Tensor]], Iterator[tuple[Tensor, AnyBatch, Tensor]]]
"""From encoded rows to batches of them: the rows' places, the batch, and what the model gives."""
SAMPLE_ROWS: tuple[Mapping[str, object], ...] = (
    {"text": "a good film", "label": 1},
    {"text": "the plot was very poor and the end is bad", "label": 0},
    {"text": "it is quite a warm book and a great end", "label": 1},
    {"text": "an awful film", "label": 0},
    {"text": "the book was fine", "label": 1},
    {"text": "a cold and very bad film with a poor plot", "label": 0},
)
"""Rows of several lengths, so that batches of them are padded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """What a model said about some rows. An item is what is right or wrong: a row, a word of a text, the next token.

    Attributes:
        row: int64 ``[items]``, the place of each item's row; ascending.
        truth, predicted: int64 ``[items]``, places among the labels, or among what ``Task.answers`` makes of them.
        loss: float32 ``[items]``, nats.
        sums: float64 ``[rows, n]``: each row's part of what ``Task.sums`` and then ``Task.detail`` name.
    """

    row: Tensor
    truth: Tensor
    predicted: Tensor
    loss: Tensor
    sums: Tensor


class Prediction(Protocol):
    """What a model says of one text."""

    @property
    def text(self) -> str:
        """As it was given."""
        ...

    def document(self) -> dict[str, Json]:
        """As ``predict --json`` prints it; keys are added, never renamed."""
        ...

    def lines(self) -> Sequence[Mapping[str, str]]:
        """As a table for people has it, cells by header; a trailing ``>`` aligns to the right."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Texts to say something of, and what it takes.

    Attributes:
        tokenizer: the base's; none where it sees images.
        run: hands encoded rows to the model.
        model: itself, for what takes more than one look at each row.
        tokens: a text is continued by at most so many.
        pixels: of the images whose files ``texts`` name, channels x height x width.
        data: of the release's experiment: how the rows were read that the model was trained on.
        separator: between two texts that are asked about together.
    """

    texts: Sequence[str]
    labels: Sequence[str]
    tokenizer: Tokenizer
    max_length: int
    run: Run
    model: Any = None
    tokens: int = 40
    pixels: str = ""
    data: Data = field(default_factory=Data)
    separator: str = TAB


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A few rows of a task, to try a model on before anybody's are touched.

    Attributes:
        rows: cells by key of ``[data]``, labels by their places; where a task has another text column, it is filled.
        data: what ``[data]`` must say for such rows.
    """

    rows: tuple[Mapping[str, object], ...] = SAMPLE_ROWS
    data: Data = field(default_factory=Data)


def class_metrics(matrix: Matrix, sums: Sums) -> dict[str, float]:
    """Accuracy and macro-F1: of a task whose metrics all follow from its confusion matrix."""
    del sums
    return scores(matrix)


def class_report(matrix: Matrix, sums: Sums, labels: Sequence[str]) -> Report:
    """Precision, recall, F1 and support of each label."""
    del sums
    return report(matrix, labels)


def own_label(example: Example, labels: Sequence[str]) -> Sequence[str]:
    """The one label of a row."""
    return (labels[example.label],)


def measured(task: "Task", matrix: Matrix, sums: Sums, *, unit: float) -> dict[str, float]:
    """The task's metrics; ``unit``, of ``[data]``, is what those of ``Task.in_units`` are counted in."""
    found = task.metrics(matrix, sums)
    return {name: value * unit if name in task.in_units else value for name, value in found.items()}


def _own_text(example: Example) -> str:
    return example.text


def same_label(one: Tensor, other: Tensor) -> Tensor:
    """Whether two models choose the same label for each item, bool ``[items]``, of their logits ``[items, labels]``."""
    return one.argmax(1) == other.argmax(1)


def _labels_themselves(labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(labels)


def _no_detail(labels: Sequence[str]) -> tuple[str, ...]:
    del labels
    return ()


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of model.

    Attributes:
        name: in ``[model] task``.
        columns: keys of ``[data]`` whose columns the source must have.
        read: one row of the source as an example. Raises ``BadRow``.
        whole: all of an example's text; ``Example.text`` alone decides with whom it lies in a hold-out.
        named: names of the labels that an example shows, one for each of its items.
        encode: examples as tensors for :func:`fedrelease.data.tokens.save_rows`; arguments are the examples, the labels, the
            base's tokenizer and ``training.max_length``.
        build: the model of ``(base, model, seed=...)``; see :func:`fedrelease.models.tasks.build_model`.
        losses: of what the model gives and its batch, float32 ``[rows]`` in nats. A row's loss depends on that row alone: private
            training clips its gradient.
        shaped: the same with what training may ask for, :class:`fedrelease.tasks.loss_options.LossOptions`; ``None`` where it may
            not. A task made of another one with ``replace`` that has losses of its own says ``shaped=None``, or has its own too.
        answers: what items are answered with, given the labels: what confusion matrices count. Usually the labels themselves.
        judge: what the model said about a batch, given the names of the labels.
        sums: names of numbers that are added up over rows beside the confusion matrix, for metrics that do not follow from it.
        bound: with noised metrics a row's sums, divided by the number of its items, are scaled down to at most this length (L2).
        detail: names of further sums, given the labels, for ``report``; told only where metrics are exact.
        write: of a model and rows, what it takes a model that writes by itself to tell: the last of ``detail``, float64
            ``[rows, n]``; asked only where metrics are exact. ``None`` where nothing is written.
        metrics: of the confusion matrix (float64 ``[true, predicted]``) and the sums; with ``accuracy``, or none at all.
        in_units: names of metrics that are counted in halves of ``[data] range``.
        same: whether two models' outputs give the same answer: what an export in few bits is compared by.
        report: the same given the labels too: by what each site did well.
        shown: names of metrics that lists of releases show beside accuracy.
        predict: what the model says of texts, one each; ``None`` where it reads none.
        continues: whether that is a continuation, whose length somebody can ask for.
        pairs: whether a row has two texts.
        opens_in_transformers: whether a release can be exported for ``transformers`` and ``peft`` alone.
        items_a_row: ``one`` or ``many``. With ``many`` and noised metrics a row's items weigh ``1 / their number``.
        batch: rows that are looked at together.
        reads: ``texts`` or ``images``.
        skewed: whether rows have labels of their own, by which a partition can skew sites and of which there must be two.
        sample: a few rows to try a model on.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Cells, Data], Example]
    encode: Callable[[Sequence[Example], Sequence[str], Tokenizer, int], dict[str, Tensor]]
    build: Callable[..., Any]
    losses: Callable[[Tensor, AnyBatch], Tensor]
    judge: Callable[[Tensor, AnyBatch, Sequence[str]], Judged]
    shaped: Callable[[Tensor, AnyBatch, LossOptions], Tensor] | None = None
    whole: Callable[[Example], str] = _own_text
    named: Callable[[Example, Sequence[str]], Sequence[str]] = own_label
    answers: Callable[[Sequence[str]], tuple[str, ...]] = _labels_themselves
    sums: tuple[str, ...] = ()
    bound: float = 1.0
    detail: Callable[[Sequence[str]], tuple[str, ...]] = _no_detail
    write: Callable[[Any, Rows], Tensor] | None = None
    metrics: Callable[[Matrix, Sums], dict[str, float]] = class_metrics
    in_units: tuple[str, ...] = ()
    same: Callable[[Tensor, Tensor], Tensor] = same_label
    report: Callable[[Matrix, Sums, Sequence[str]], Report] = class_report
    shown: tuple[str, ...] = ()
    predict: Callable[[Asked], Sequence[Prediction]] | None = None
    continues: bool = False
    pairs: bool = False
    opens_in_transformers: bool = False
    items_a_row: str = "one"
    batch: int = 64
    reads: str = "texts"
    skewed: bool = True
    sample: Sample = field(default_factory=Sample)

    @property
    def sensitivity(self) -> float:
        """How far one row moves all that is told of a hold-out (L2): its counts by at most 1, its sums over ``bound`` too."""
        return math.sqrt(2.0) if self.sums else 1.0
