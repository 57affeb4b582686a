"""What is added to gradients before a step: hand-worked numbers, and the slow twin with and without privacy."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from one_site import (
    CLIP,
    RATE,
    drawn_batches,
    drawn_noises,
    make_job,
    make_plan,
    random_state,
    tiny_model,
    trained_parameters,
)
from reference import AdamW, Sgd, plain_steps, private_steps
from torch import nn

from fedrelease.client.correction import Correction, MeanGradient, corrected
from fedrelease.client.directives import frozen
from fedrelease.client.sampling import seeded_generator, shuffled_batches
from fedrelease.client.training import train
from fedrelease.data.tokens import TokenRows
from fedrelease.experiment import Training
from fedrelease.models.classifier import TextClassifier, load_state, trainable_state

PULL = 5.0
TRAINING = Training(batch_size=8, micro_batch=3, lr=0.02, optimizer="sgd")


class Slope(nn.Module):
    """Two numbers whose gradients are 1 and 2, whatever they are."""

    def __init__(self) -> None:
        super().__init__()
        self.steep, self.flat = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))

    def walk(self, steps: int, correction: Correction, seen: MeanGradient | None = None) -> list[float]:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        with corrected(self, optimizer, correction, seen):
            for _ in range(steps):
                optimizer.zero_grad()
                torch.autograd.backward(2 * self.steep + self.flat)
                optimizer.step()
        return [self.steep.item(), self.flat.item()]


def test_the_pull_grows_with_the_way_from_where_training_began() -> None:
    """steep: 1 - 0.1 * 2 = 0.8; then 0.8 - 0.1 * (2 + 3 * (0.8 - 1)) = 0.66. flat: 0.9, then 0.9 - 0.1 * (1 - 0.3) = 0.83."""
    assert Slope().walk(2, Correction(pull=3.0)) == pytest.approx([0.66, 0.83])


def test_a_shift_is_added_to_the_gradients_that_it_names() -> None:
    """steep: 1 - 2 * 0.1 * (2 + 0.5) = 0.5; flat is not named: 1 - 2 * 0.1 * 1 = 0.8."""
    assert Slope().walk(2, Correction(shift={"steep": torch.tensor(0.5)})) == pytest.approx([0.5, 0.8])


def test_the_mean_gradient_is_that_before_the_correction() -> None:
    seen = MeanGradient()
    Slope().walk(4, Correction(pull=3.0, shift={"flat": torch.tensor(9.0)}), seen)
    assert {name: float(value) for name, value in seen.over(4).items()} == {"steep": 2.0, "flat": 1.0}


def test_without_anything_to_add_or_to_note_the_optimizer_is_left_alone() -> None:
    model = Slope()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with corrected(model, optimizer, Correction()):
        assert not optimizer._optimizer_step_pre_hooks
    with corrected(model, optimizer, Correction(pull=1.0)):
        assert optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("private", [True, False], ids=["private", "plain"])
def test_training_with_a_pull_equals_the_slow_twin(
    model: TextClassifier, tiny_base: Path, rows: TokenRows, private: bool, optimizer: str
) -> None:
    training = replace(TRAINING, optimizer=optimizer)
    job = make_job(rows, training, make_plan(len(rows)) if private else None, steps=4)
    load_state(model, random_state(model, seed=5))
    train(model, replace(job, correction=Correction(pull=PULL)))
    found = trainable_state(model)
    load_state(model, random_state(model, seed=5))
    train(model, job)
    free = trainable_state(model)
    twin = tiny_model(tiny_base).eval()
    parameters, inner = trained_parameters(twin), AdamW(0.02, 0.0) if optimizer == "adamw" else Sgd(0.02)
    if private:
        noises = drawn_noises(parameters, steps=4)
        drawn = drawn_batches(rows, steps=4)
        how = {"batches": drawn, "noises": noises, "clip": CLIP, "expected_batch": RATE * 24}
        private_steps(twin, parameters, rows, optimizer=inner, pull=PULL, **how)  # type: ignore[arg-type]  # named above
    else:
        endless = shuffled_batches(24, batch_size=8, generator=seeded_generator("sampling", "k"))
        batches = [batch.tolist() for batch, _ in zip(endless, range(4), strict=False)]
        plain_steps(twin, parameters, rows, batches=batches, optimizer=inner, pull=PULL)
    for name, expected in trainable_state(twin).items():
        torch.testing.assert_close(found[name], expected, atol=2e-5, rtol=0)
    seen = max(float((free[name] - found[name]).abs().max()) for name in found)
    assert seen > 1e-3  # else the twin would be met without a pull


def test_a_frozen_factor_gets_neither_pull_nor_shift(model: TextClassifier, rows: TokenRows) -> None:
    start = random_state(model, seed=5)
    load_state(model, start)
    shift = {name: torch.ones_like(value) for name, value in start.items()}
    with frozen(model, "lora_A"):
        train(model, replace(make_job(rows, TRAINING, None, steps=2), correction=Correction(pull=PULL, shift=shift)))
    same = {name for name, value in trainable_state(model).items() if torch.equal(value, start[name])}
    assert same == {name for name in start if name.endswith("lora_A")}
