"""Any number of labels for a text: what is read, counted, told and refused."""

import random

import numpy
import pytest
import torch

from fedrelease.data.cells import BadRow, Cells, Example
from fedrelease.data.rows import RawRow
from fedrelease.data.tokens import Batch
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Data, Model
from fedrelease.models.evaluation import bounded, tally
from fedrelease.tasks import TASKS
from fedrelease.tasks.contract import Judged

TASK = TASKS["multi-label-classification"]
LABELS = ("spam", "offer", "news")


def read(value: object) -> Example:
    return TASK.read(Cells(row=RawRow(line=2, values={"text": "x", "label": value}), labels=LABELS), Data())


def judged(truth: list[list[int]], said: list[list[int]]) -> Judged:
    """``said``: 1 where a logit is above 0."""
    ids = torch.ones(len(truth), 2, dtype=torch.int64)
    values = torch.tensor(truth, dtype=torch.float32)
    batch = Batch(input_ids=ids, attention_mask=ids, labels=ids[:, 0], values=values)
    return TASK.judge(2 * torch.tensor(said, dtype=torch.float32) - 1, batch, LABELS)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (["news", "spam"], ["news", "spam"]),
        ("news, spam", ["news", "spam"]),
        ("offer;news|offer", ["news", "offer"]),
        ("0,2", ["news", "spam"]),
        (1, ["offer"]),
        ([], []),
        ("", []),
        (" ; ", []),
    ],
)
def test_labels_are_a_list_or_one_text_with_marks_between_and_nothing_is_none(value: object, names: list[str]) -> None:
    found = read(value)
    assert found.content == names
    assert found.values == tuple(float(label in names) for label in LABELS)
    assert found.label == (LABELS.index(min(names, key=LABELS.index)) if names else 0)


@pytest.mark.parametrize("value", [None, "spam, ham", ["spam", 7], 2.5, True, {"a": 1}])
def test_an_unknown_label_and_what_is_no_list_is_refused(value: object) -> None:
    with pytest.raises(BadRow, match="is missing|which is not one of spam, offer, news|neither a list of labels"):
        read(value)


def test_each_label_is_counted_in_a_block_of_its_own() -> None:
    """Spam: once right there, once invented. Offer: missed once. News: never there, never said."""
    told = tally(judged([[1, 1, 0], [0, 0, 0]], [[1, 0, 0], [1, 0, 0]]), classes=6)
    assert TASK.answers(LABELS) == ("not spam", "spam", "not offer", "offer", "not news", "news")
    blocks = [told.matrix[at : at + 2, at : at + 2].tolist() for at in (0, 2, 4)]
    assert blocks == [[[0, 1], [0, 1]], [[1, 0], [1, 0]], [[2, 0], [0, 0]]]
    assert told.matrix.sum() == 6


def test_metrics_of_hand_worked_counts() -> None:
    """Of 6 labels 4 are right; 1 hit, 1 invented, 1 missed: F1 2/4; spam 2/3 and offer 0 make a mean of 1/3; no row is right."""
    told = tally(judged([[1, 1, 0], [0, 0, 0]], [[1, 0, 0], [1, 0, 0]]), classes=6)
    found = TASK.metrics(told.matrix, told.sums)
    expected = {"accuracy": 4 / 6, "micro_f1": 0.5, "macro_f1": 1 / 3, "subset_accuracy": 0.0, "examples": 6}
    assert found == pytest.approx(expected)
    spam = TASK.report(told.matrix, told.sums, LABELS)["spam"]
    assert spam == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1.0}


def test_a_row_that_is_wholly_right_counts_once_with_noise_or_without() -> None:
    found = judged([[1, 0, 1], [0, 0, 0], [0, 1, 0]], [[1, 0, 1], [0, 0, 0], [1, 1, 0]])
    exact = tally(found, classes=6)
    shares = bounded(found, classes=6, bound=TASK.bound, sums=1)
    for told in (exact, shares):
        assert TASK.metrics(told.matrix, told.sums)["subset_accuracy"] == pytest.approx(2 / 3)
    assert (exact.matrix.sum(), shares.matrix.sum()) == (9, pytest.approx(3))


@pytest.mark.parametrize("seed", range(20))
def test_one_row_moves_what_is_told_with_noise_by_at_most_the_promised_length(seed: int) -> None:
    numbers = random.Random(seed)
    truth, said = ([[numbers.randint(0, 1) for _ in LABELS]] for _ in range(2))
    told = bounded(judged(truth, said), classes=6, bound=TASK.bound, sums=1)
    assert numpy.linalg.norm(told.matrix) <= 1
    assert abs(told.sums[0]) <= TASK.bound


def test_counts_outside_of_the_blocks_are_noise_and_change_no_metric() -> None:
    told = tally(judged([[1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 0]]), classes=6)
    noisy = told.matrix + 50.0 * (numpy.kron(numpy.eye(3), numpy.ones((2, 2))) == 0)
    assert TASK.metrics(noisy, told.sums) == TASK.metrics(told.matrix, told.sums)
    assert TASK.metrics(-noisy, told.sums) == {}


def test_a_rows_loss_is_the_mean_of_its_labels() -> None:
    """At a logit of 0 each label costs ln 2; at 2 the true one costs ln(1 + e^-2)."""
    ids = torch.ones(1, 1, dtype=torch.int64)
    batch = Batch(input_ids=ids, attention_mask=ids, labels=ids[:, 0], values=torch.tensor([[1.0, 0.0, 1.0]]))
    assert float(TASK.losses(torch.zeros(1, 3), batch)) == pytest.approx(0.693147, rel=1e-5)
    assert float(TASK.losses(torch.tensor([[2.0, 0.0, 0.0]]), batch)) == pytest.approx((0.126928 + 2 * 0.693147) / 3)


@pytest.mark.parametrize("labels", [("a", "b,c"), ("a;", "b"), ("a", "not a")])
def test_labels_that_could_not_be_told_apart_are_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(ExperimentError, match=r"model\.labels"):
        Model(task=TASK.name, labels=labels)
    assert Model(labels=labels).labels == labels  # of one label a text they may be
