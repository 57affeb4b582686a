"""Local training of one site in one round, private through Opacus or plain, on one loop.

Example::

    job = Job(rows=site.train, training=experiment.training, plan=plan, start=0, steps=10, total=50, seeds=seeds)
    train(model, job)        # 10: the number of optimizer steps

Private steps (:mod:`fedrelease.client.private_step`) are noisy sums of clipped gradients. Here is what must not be left to
defaults around them: Poisson sampling at the plan's rate, steps that happen even when the batch is empty, noise from a source
that nobody can guess, and micro-batches.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from fedrelease.client.aim import Aim, Losses, aimed
from fedrelease.client.correction import Correction, MeanGradient, corrected
from fedrelease.client.looks import Looks
from fedrelease.client.private_step import private_stepper
from fedrelease.client.sampling import poisson_batch, randomness, seeded_generator, shuffled_batches
from fedrelease.client.schedule import rate_factor
from fedrelease.data.row_files import Rows
from fedrelease.experiment import Training
from fedrelease.models.precision import matmul
from fedrelease.models.tasks import task_of
from fedrelease.privacy import PrivacyPlan

__all__ = [
    "Job",
    "Seeds",
    "batches",
    "optimizer_of",
    "summed_loss",
    "train",
    "training_mode",
]


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """What randomness follows from. ``noise`` is ``seeded`` (by ``key``) or ``secure`` (the operating system)."""

    key: str
    noise: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """One site's training in one round.

    Attributes:
        rows: the site's training rows.
        plan: privacy, or ``None`` for plain training.
        start: steps of the whole plan before this round; ``steps``: of this round; ``total``: of the whole plan.
        validate: the loss on the site's hold-out, for early stopping without privacy.
        correction: what the strategy adds to each step's gradient. seen: notes what the gradients were before.
        aim: how losses and rows differ from those of evaluation.
    """

    rows: Rows
    training: Training
    plan: PrivacyPlan | None
    start: int
    steps: int
    total: int
    seeds: Seeds
    validate: Callable[[], float] | None = None
    correction: Correction = field(default_factory=Correction)
    seen: MeanGradient | None = None
    aim: Aim = field(default_factory=Aim)


def train(model: nn.Module, job: Job) -> int:
    """Train ``model`` in place and return how many optimizer steps led to the state that it has then.

    Guarantees (with a plan): exactly ``job.steps`` noisy steps happen, whatever the sampling draws; an empty batch adds noise
    and steps the optimizer; each example's part in a step's sum is at most ``plan.clip`` long (up to rounding), whatever state
    the server sent: gradients that are not finite count as zero, since no noise hides a NaN. A correction comes after the
    noise, so that it changes none of this.
    """
    optimizer = optimizer_of(model, job.training)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    looks = Looks(job.training, rows=len(job.rows), steps=job.steps, validate=job.validate)
    adding = corrected(model, optimizer, job.correction, job.seen)
    losses = aimed(model, job.rows, job.aim, key=job.seeds.key)
    with training_mode(model), adding, losses as loss, _stepper(model, optimizer, job, loss) as step:
        for done, indices in zip(range(job.steps), batches(job), strict=False):
            factor = rate_factor(job.start + done, job.total, job.training)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            step(indices, job.start + done)
            if looks.are_enough(model, done + 1):
                break
    return looks.end(model)


def batches(job: Job) -> Iterator[Tensor]:
    """Endless row numbers, step by step: shuffled passes without privacy, Poisson draws with it."""
    if job.plan is None:
        generator = seeded_generator("sampling", job.seeds.key)
        yield from shuffled_batches(len(job.rows), batch_size=job.training.batch_size, generator=generator)
    else:
        # Which rows take part must be as hard to guess as the noise: amplification by sampling needs it secret.
        source = randomness(job.seeds.noise, "sampling", job.seeds.key)
        while True:
            yield poisson_batch(len(job.rows), sample_rate=job.plan.sample_rate, source=source)


def optimizer_of(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """A fresh optimizer over what is trained, the head with a rate of its own."""
    head = [value for name, value in model.named_parameters() if value.requires_grad and name.startswith("head.")]
    body = [value for name, value in model.named_parameters() if value.requires_grad and not name.startswith("head.")]
    groups = [{"params": body, "lr": training.lr}, {"params": head, "lr": training.head_lr or training.lr}]
    groups = [group for group in groups if group["params"]]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=0.9, weight_decay=training.weight_decay)
    if training.optimizer == "adagrad":
        return torch.optim.Adagrad(groups, lr=training.lr, weight_decay=training.weight_decay)
    return torch.optim.AdamW(groups, lr=training.lr, weight_decay=training.weight_decay)


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Within it the model trains, through the processor's quickest products."""
    model.train()
    try:
        with matmul("medium"):
            yield
    finally:
        model.eval()


@contextmanager
def _stepper(
    model: nn.Module, optimizer: torch.optim.Optimizer, job: Job, losses: Losses
) -> Iterator[Callable[[Tensor, int], None]]:
    if job.plan is None:
        yield partial(_plain_step, model, optimizer, job, losses)
        return
    source = randomness(job.seeds.noise, "noise", job.seeds.key)
    with private_stepper(model, optimizer, job.plan, source) as step:
        yield lambda indices, number: step([partial(losses, piece, number) for piece in _micro_batches(indices, job)])


def _plain_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, job: Job, losses: Losses, indices: Tensor, number: int
) -> None:
    optimizer.zero_grad()
    for piece in _micro_batches(indices, job):
        torch.autograd.backward(losses(piece, number) / len(indices))
    if job.training.grad_clip is not None:
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], job.training.grad_clip)
    optimizer.step()


def _micro_batches(indices: Tensor, job: Job) -> list[Tensor]:
    """A batch in pieces of at most ``micro_batch`` rows of like length; the batch itself stays what was drawn."""
    by_length = indices[torch.argsort(job.rows.lengths[indices], stable=True)]
    return [piece for piece in torch.split(by_length, job.training.micro_batch) if len(piece)]


def summed_loss(model: nn.Module, rows: Rows, indices: Tensor) -> Tensor:
    """The task's plain losses of these rows in nats, added up, through what they carry of the frozen layers."""
    batch = rows.batch(indices)
    return task_of(model).losses(model(*batch.inputs), batch).sum()
