"""Local training of many sites at once, for models so small that one site alone leaves the processor waiting.

Example::

    states = train_together(model, jobs)         # the trained state of each job, in their order; the model is as it was

What happens to a site is what :func:`fedrelease.client.training.train` does to it alone, up to rounding: its own batches,
clipping, noise and optimizer. Nothing of one site enters the numbers of another, and a site's result is the same, bit for bit,
whoever is trained beside it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.client.correction import corrected
from fedrelease.client.private_step import clip_factors
from fedrelease.client.sampling import Randomness, randomness
from fedrelease.client.schedule import ABREAST, rate_factor
from fedrelease.client.training import Job, batches, optimizer_of, training_mode
from fedrelease.models.classifier import canonical_name
from fedrelease.models.network import Network
from fedrelease.models.precision import matmul
from fedrelease.models.stacked import form_sums, gradient_lengths, noted, stacked
from fedrelease.privacy import PrivacyPlan

__all__ = ["alike", "train_together"]

LEAST = 1e-6
"""What torch adds to a length before it divides by it."""


def alike(job: Job) -> tuple[int, int]:
    """Jobs for which this is equal may be trained at once."""
    return len(job.rows), job.steps


def train_together(model: Network, jobs: Sequence[Job]) -> list[dict[str, Tensor]]:
    """Train from the state that ``model`` has; the jobs are of one experiment and round, and alike by :func:`alike`.

    Their correction is one pull for all: a shift of its own would have to be stacked, and who has one trains alone.

    Returns:
        For each job what it ends with, float32, by canonical name, names sorted.

    Guarantees (with a plan): those of :func:`fedrelease.client.training.train`, for each job.
    """
    found: list[dict[str, Tensor]] = []
    for start in range(0, len(jobs), ABREAST):
        some = list(jobs[start : start + ABREAST])
        found += _train(model, some + some[:1] * (ABREAST - len(some)))[: len(some)]
    return found


def _train(model: Network, jobs: Sequence[Job]) -> list[dict[str, Tensor]]:
    first = jobs[0]
    with stacked(model, len(jobs)), training_mode(model):
        optimizer = optimizer_of(model, first.training)
        with corrected(model, optimizer, first.correction):
            _make_steps(model, optimizer, jobs)
        return _states(model, len(jobs))


def _make_steps(model: Network, optimizer: torch.optim.Optimizer, jobs: Sequence[Job]) -> None:
    first = jobs[0]
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    noise = [randomness(job.seeds.noise, "noise", job.seeds.key) for job in jobs] if first.plan else []
    draws = [batches(job) for job in jobs]
    for done in range(first.steps):
        factor = rate_factor(first.start + done, first.total, first.training)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        optimizer.zero_grad()
        _sum_gradients(model, jobs, [next(draw) for draw in draws])
        with matmul("highest"):
            _finish(optimizer, jobs, noise)


def _states(model: Network, sites: int) -> list[dict[str, Tensor]]:
    values = sorted((canonical_name(name), value.detach()) for name, value in model.named_parameters())
    return [{name: value[place] for name, value in values} for place in range(sites)]


def _sum_gradients(model: Network, jobs: Sequence[Job], drawn: Sequence[Tensor]) -> None:
    """Each site's sum of clipped gradients, or the mean of plain ones, over the rows that it drew.

    Every pass has the same number of rows for every site, so that its products have the same shape whoever takes part; places
    that a site does not fill count as nothing.
    """
    wide = _width(jobs[0])
    for start in range(0, max(1, *(len(indices) for indices in drawn)), wide):
        pieces = [indices[start : start + wide] for indices in drawn]
        features, labels, there = _filled(jobs, pieces, wide)
        logits = model(features)
        losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        parts = noted(model, losses.sum())
        with matmul("highest"):
            form_sums(parts, _scales(jobs, drawn, gradient_lengths(parts), there))


def _width(job: Job) -> int:
    """Rows of a site in one pass: a plain batch; or, where batches are Poisson, what few draws exceed."""
    rows = len(job.rows)
    if job.plan is None:
        return min(rows, job.training.batch_size)
    rate = job.plan.sample_rate
    usual = rows * rate + 3 * math.sqrt(rows * rate * (1 - rate))
    return min(rows, 8 * math.ceil(usual / 8))


def _filled(jobs: Sequence[Job], pieces: Sequence[Tensor], wide: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features ``[sites, wide, width]``, labels and which places are filled ``[sites, wide]``."""
    found = [job.rows.batch(piece) for job, piece in zip(jobs, pieces, strict=True)]
    features = torch.zeros(len(jobs), wide, found[0].inputs[0].shape[1])
    labels, there = torch.zeros(len(jobs), wide, dtype=torch.int64), torch.zeros(len(jobs), wide, dtype=torch.bool)
    for place, batch in enumerate(found):
        count = len(batch.labels)
        features[place, :count], labels[place, :count], there[place, :count] = batch.inputs[0], batch.labels, True
    return features, labels, there


def _scales(jobs: Sequence[Job], drawn: Sequence[Tensor], lengths: Tensor, there: Tensor) -> Tensor:
    """What each example's gradient is multiplied by, ``[sites, rows]``: to clip it, or to take the mean."""
    plan = jobs[0].plan
    if plan is None:
        counts = torch.tensor([len(indices) for indices in drawn], dtype=torch.float32)
        return there / counts[:, None]
    return torch.where(there, clip_factors(lengths, plan.clip), 0.0)


def _finish(optimizer: torch.optim.Optimizer, jobs: Sequence[Job], noise: Sequence[Randomness]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        for place, (job, source) in enumerate(zip(jobs, noise, strict=False)):
            if job.plan is not None:
                _add_noise(parameter, place, job.plan, source)
    most = jobs[0].training.grad_clip
    if most is not None:
        _shorten(parameters, most)
    optimizer.step()


def _add_noise(parameter: nn.Parameter, place: int, plan: PrivacyPlan, source: Randomness) -> None:
    """Noise of one site for one parameter, then the division by the expected batch size, as Opacus' optimizer does."""
    if parameter.grad is not None:
        total = parameter.grad[place]
        noise = source.normal(plan.noise_multiplier * plan.clip, total.shape, dtype=total.dtype)
        total.copy_((total + noise).to(total.dtype) / plan.batch_size)


def _shorten(parameters: Sequence[nn.Parameter], most: float) -> None:
    """Clip each site's whole gradient to length ``most``, as ``torch.nn.utils.clip_grad_norm_`` does."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    lengths = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).sqrt()
    scales = (most / (lengths + LEAST)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scales.view(-1, *[1] * (gradient.dim() - 1)))
