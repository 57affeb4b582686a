"""Smoothed labels and weights of classes: hand-worked numbers, and tasks that know them."""

import math
from pathlib import Path

import pytest
import torch

from fedrelease.client.aim import task_losses
from fedrelease.data.tokens import IGNORED, Batch
from fedrelease.data.vectors import VectorBatch
from fedrelease.errors import ModelError
from fedrelease.tasks import TASKS
from fedrelease.tasks.loss_options import PLAIN, LossOptions, balanced_weights, named_weights
from fedrelease.training_rules import SHAPED

LOGITS = torch.tensor([[math.log(3.0), 0.0]])  # probabilities 3/4 and 1/4
NATS = (-math.log(0.75), -math.log(0.25))


def losses(task: str, options: LossOptions, label: int) -> list[float]:
    batch = VectorBatch(features=torch.zeros(1, 1), labels=torch.tensor([label]))
    found: list[float] = task_losses(TASKS[task], options)(LOGITS, batch).tolist()
    return found


@pytest.mark.parametrize("task", ["image-classification", "text-classification"])
def test_a_share_of_the_truth_goes_evenly_to_all_labels(task: str) -> None:
    smoothed = 0.8 * NATS[0] + 0.1 * (NATS[0] + NATS[1])  # 0.2 is 0.1 for each of two labels
    assert losses(task, LossOptions(smoothing=0.2), 0) == pytest.approx([smoothed])


def test_a_rows_loss_is_multiplied_by_the_weight_of_its_own_label() -> None:
    weighted = LossOptions(weights=torch.tensor([1.0, 3.0]))
    assert losses("text-classification", weighted, 0) == pytest.approx([NATS[0]])
    assert losses("text-classification", weighted, 1) == pytest.approx([3 * NATS[1]])
    both = LossOptions(smoothing=0.2, weights=torch.tensor([1.0, 3.0]))
    assert losses("text-classification", both, 1) == pytest.approx([3 * (0.9 * NATS[1] + 0.1 * NATS[0])])


def test_of_a_text_with_tags_each_word_has_its_weight_and_padding_has_none() -> None:
    targets = torch.tensor([[IGNORED, 1, 0, IGNORED]])
    logits = LOGITS.expand(1, 4, 2)
    ones = torch.ones(1, 4, dtype=torch.int64)
    batch = Batch(input_ids=ones, attention_mask=ones, labels=torch.tensor([1]), targets=targets)
    shaped = task_losses(TASKS["token-classification"], LossOptions(weights=torch.tensor([1.0, 3.0])))
    assert shaped(logits, batch).tolist() == pytest.approx([(3 * NATS[1] + NATS[0]) / 2])


def test_without_options_training_has_the_tasks_own_losses() -> None:
    assert [task for task in TASKS.values() if task_losses(task, PLAIN) is not task.losses] == []


def test_the_tasks_that_know_options_are_those_that_an_experiment_allows() -> None:
    assert sorted(name for name, task in TASKS.items() if task.shaped is not None) == sorted(SHAPED)
    with pytest.raises(ModelError, match="cannot be changed"):
        task_losses(TASKS["causal-lm"], LossOptions(smoothing=0.1))


def test_evaluation_tells_the_plain_loss(tmp_path: Path) -> None:
    batch = VectorBatch(features=torch.zeros(1, 1), labels=torch.tensor([1]))
    assert TASKS["text-classification"].judge(LOGITS, batch, ("a", "b")).loss.tolist() == pytest.approx([NATS[1]])


def test_balanced_labels_weigh_the_same_in_sum_and_1_on_average() -> None:
    truth = torch.tensor([0, 0, 0, 2, IGNORED])  # 4 items, 2 labels that are there: 4 / (2 * 3) and 4 / (2 * 1)
    assert balanced_weights(truth, 3).tolist() == pytest.approx([2 / 3, 1.0, 2.0])


def test_labels_without_a_weight_of_their_own_have_1() -> None:
    weights = named_weights({"b": 2.5}, ("a", "b", "c"))
    assert weights is not None and weights.tolist() == [1.0, 2.5, 1.0]
    assert named_weights({}, ("a", "b")) is None
