"""Metrics from a confusion matrix, against hand numbers, the twin and scikit-learn."""

import random

import numpy
import pytest
from reference import class_scores
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from fedrelease.models.metrics import confusion, report, scores


def drawn(seed: int, classes: int) -> tuple[list[int], list[int]]:
    numbers = random.Random(seed)
    labels = [numbers.randrange(classes) for _ in range(60)]
    return labels, [label if numbers.random() < 0.6 else numbers.randrange(classes) for label in labels]


def test_confusion_counts_true_labels_by_row_and_predictions_by_column() -> None:
    assert confusion([0, 0, 1, 1, 1], [0, 1, 1, 1, 0], classes=2).tolist() == [[1, 1], [1, 2]]
    assert confusion([], [], classes=3).tolist() == [[0] * 3] * 3


def test_scores_equal_hand_worked_numbers() -> None:
    """8 right of 10; F1 of the first 2*5/(6+6), of the second 2*3/(4+4)."""
    found = scores(numpy.array([[5.0, 1.0], [1.0, 3.0]]))
    assert found == {"accuracy": 0.8, "macro_f1": pytest.approx((10 / 12 + 6 / 8) / 2), "examples": 10.0}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_metrics_agree_with_scikit_learn_and_with_the_twin(seed: int, classes: int) -> None:
    labels, predictions = drawn(seed, classes)
    matrix = confusion(labels, predictions, classes=classes)
    found = scores(matrix)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert found == pytest.approx({**class_scores(matrix.astype(int).tolist()), "examples": 60})
    expected = precision_recall_fscore_support(labels, predictions, labels=range(classes), zero_division=0)
    parts = report(matrix, [str(label) for label in range(classes)])
    for place, name in enumerate(("precision", "recall", "f1", "support")):
        assert [row[name] for row in parts.values()] == pytest.approx(expected[place].tolist())


def test_a_label_that_never_appears_does_not_pull_the_mean_down() -> None:
    assert scores(numpy.diag([4.0, 2.0, 0.0]))["macro_f1"] == 1.0


def test_a_label_that_is_only_predicted_counts_as_zero() -> None:
    assert scores(numpy.array([[3.0, 1.0], [0.0, 0.0]]))["macro_f1"] == pytest.approx((6 / 7 + 0) / 2)


def test_counts_that_noise_pushed_below_zero_count_as_zero() -> None:
    noised = numpy.array([[5.0, -3.0], [-1.0, 5.0]])
    assert scores(noised) == scores(numpy.diag([5.0, 5.0]))
    assert report(noised, "ab") == report(numpy.diag([5.0, 5.0]), "ab")
    assert noised[0, 1] == -3.0


@pytest.mark.parametrize("matrix", [numpy.zeros((2, 2)), numpy.array([[-1.0, -2.0], [0.0, -3.0]])])
def test_nothing_gives_no_metric_at_all_and_not_zero(matrix: numpy.ndarray) -> None:  # type: ignore[type-arg]
    assert scores(matrix) == {}


def test_a_report_of_nothing_is_zeros() -> None:
    assert report(numpy.zeros((1, 1)), ("a",)) == {"a": {"precision": 0, "recall": 0, "f1": 0, "support": 0}}


def test_a_report_needs_a_name_for_every_label() -> None:
    with pytest.raises(ValueError, match="zip"):
        report(numpy.zeros((2, 2)), ("a",))
