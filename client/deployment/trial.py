"""Preflight: one private training step on the site's own rows. Nothing is charged, nothing is kept, nothing leaves.

Example::

    trial = try_training(site, experiment, base, rows=2000)
    trial.step_s, trial.round_s                              # seconds
"""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from fedrelease.client.aim import Aim, aim_of
from fedrelease.client.augmentation import fill_of
from fedrelease.client.schedule import steps_per_round
from fedrelease.client.selftest import check_gradients
from fedrelease.client.training import Job, Seeds, train
from fedrelease.data.own import prepare_own
from fedrelease.data.row_files import Rows
from fedrelease.data.sites import open_site
from fedrelease.data.tokens import load_tokenizer
from fedrelease.experiment import Experiment
from fedrelease.models.bases import Base
from fedrelease.models.classifier import trainable_state
from fedrelease.models.tasks import build_model
from fedrelease.privacy import PrivacyPlan

__all__ = ["Trial", "thrown_away", "try_training"]

MOST_ROWS = 512
"""Enough for a few steps; tokenising millions of rows would not tell more."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """``step_s``: of one step on this machine. ``round_s``: of all steps of a round at that speed. ``private``: with Opacus.

    ``state_bytes``: of the tensors that are trained, which travel in each round.
    """

    step_s: float
    steps: int
    private: bool
    state_bytes: int

    @property
    def round_s(self) -> float:
        """Seconds of training in a round."""
        return self.step_s * self.steps


def try_training(experiment: Experiment, base: Base, *, site: str, rows: int, folder: Path) -> Trial:
    """Check the gradients by example, then train two steps and time the second; in one thread, as the site's app does.

    Args:
        experiment: with the site's own source and labels. rows: how many rows the site has. folder: for a temporary one.

    Raises:
        DataError: the rows cannot be prepared.
        ModelError: the base does not fit, or this machine's gradients by example are wrong: privacy would be an empty promise.
    """
    training = experiment.training
    private = experiment.privacy.unit != "none"
    limit = min(MOST_ROWS, experiment.data.limit_per_site or MOST_ROWS)
    small = replace(experiment, data=replace(experiment.data, limit_per_site=limit))
    with tempfile.TemporaryDirectory(dir=folder, prefix="trial-") as work:
        own = prepare_own(
            small, site=site, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, folder=Path(work)
        )
        step_s, state_bytes = _timed(open_site(own).train, small, base, private=private)
    kept = min(rows, experiment.data.limit_per_site or rows)
    in_training = max(1, round(kept * (1 - experiment.data.holdout)))
    steps = steps_per_round(in_training, training, private=private)
    return Trial(step_s=step_s, steps=steps, private=private, state_bytes=state_bytes)


def _timed(rows: Rows, experiment: Experiment, base: Base, *, private: bool) -> tuple[float, int]:
    """Seconds of a step, and bytes of what is trained."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = build_model(base, experiment.model_at(1), seed=0)
        fill = fill_of(load_tokenizer(base.folder)) if experiment.training.augment.tokens else None
        aim = aim_of(experiment, model, rows, labels=experiment.labels_at(1), fill=fill)
        if private:
            check_gradients(model, rows, again=aim.checkpointing)
        _step(model, rows, experiment, aim, private=private)  # the first one also warms up
        begun = time.perf_counter()
        _step(model, rows, experiment, aim, private=private)
        took_s = time.perf_counter() - begun
        return took_s, sum(tensor.nbytes for tensor in trainable_state(model).values())
    finally:
        torch.set_num_threads(threads)


def _step(model: nn.Module, rows: Rows, experiment: Experiment, aim: Aim, *, private: bool) -> None:
    plan, training = thrown_away(len(rows), experiment) if private else None, experiment.training
    seeds = Seeds(key="preflight", noise="secure")
    train(model, Job(rows=rows, training=training, plan=plan, start=0, steps=1, total=2, seeds=seeds, aim=aim))


def thrown_away(rows: int, experiment: Experiment) -> PrivacyPlan:
    """A plan that costs as much time as a real one; what it would spend is nobody's, since its result is thrown away."""
    privacy, batch = experiment.privacy, min(experiment.training.batch_size, rows)
    return PrivacyPlan(
        unit=privacy.unit,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        clip=privacy.clip,
        accountant=privacy.accountant,
        sample_rate=batch / rows,
        batch_size=float(batch),
        steps_per_round=1,
        rounds=1,
        noise_multiplier=1.0,
    )
