"""The best epoch of a round, and what a site sends of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from one_site import make_experiment, make_job, make_request, random_state
from torch import Tensor

from fedrelease.client import site as site_module
from fedrelease.client.site import Site, train_site
from fedrelease.client.training import train
from fedrelease.data.tokens import TokenRows
from fedrelease.errors import ModelError
from fedrelease.experiment import Privacy, Training
from fedrelease.models.classifier import TextClassifier, load_state, trainable_state

BEST = Training(batch_size=8, lr=0.05, optimizer="sgd", keep_best=True)  # of 24 rows: 3 steps an epoch


def ended(model: TextClassifier, rows: TokenRows, training: Training, steps: int, *losses: float) -> dict[str, Tensor]:
    """The state that training ends with, and under ``steps`` what it returned."""
    told = iter(losses)
    load_state(model, random_state(model, seed=5))
    done = train(model, replace(make_job(rows, training, None, steps=steps), validate=lambda: next(told)))
    assert next(told, None) is None
    return {**trainable_state(model), "steps": torch.tensor(done)}


@pytest.mark.parametrize(
    ("losses", "best"), [((1.0, 0.5, 0.7), 6), ((0.5, 0.6, 0.7), 3), ((0.9, 0.8, 0.7), 9), ((0.5, 0.5, 0.5), 3)]
)
def test_a_site_ends_with_the_state_of_its_best_epoch_and_the_steps_that_led_there(
    model: TextClassifier, rows: TokenRows, losses: tuple[float, ...], best: int
) -> None:
    found = ended(model, rows, BEST, 9, *losses)
    expected = ended(model, rows, replace(BEST, keep_best=False), best)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_last_step_is_looked_at_though_its_epoch_is_not_over(model: TextClassifier, rows: TokenRows) -> None:
    assert int(ended(model, rows, BEST, 5, 0.9, 0.8)["steps"]) == 5
    assert int(ended(model, rows, BEST, 5, 0.8, 0.9)["steps"]) == 3


def test_with_patience_too_a_site_stops_early_and_goes_back_to_the_best(model: TextClassifier, rows: TokenRows) -> None:
    assert int(ended(model, rows, replace(BEST, patience=2), 30, 0.9, 0.5, 0.6, 0.7)["steps"]) == 6


def test_losses_that_are_no_numbers_leave_the_last_state(model: TextClassifier, rows: TokenRows) -> None:
    assert int(ended(model, rows, BEST, 6, float("nan"), float("nan"))["steps"]) == 6


def test_a_site_tells_the_steps_of_the_state_that_it_sends(
    site: Site, tmp_path: Path, tiny_base: Path, model: TextClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([0.4, 0.6])
    monkeypatch.setattr(site_module, "mean_loss", lambda *_: next(losses))
    experiment = make_experiment(tmp_path, tiny_base)
    training = replace(experiment.training, epochs=2.0, keep_best=True)
    request = make_request(replace(experiment, training=training, privacy=Privacy(unit="none")))
    answer, _ = train_site(site, request, trainable_state(model), model)
    assert answer.metrics["steps"] == -(-len(site.data.train) // 8)
    variate = replace(request, directives={"variate": "feddyn", "alpha": 0.1})
    with pytest.raises(ModelError, match="control variate"):
        train_site(site, variate, trainable_state(model), model)
