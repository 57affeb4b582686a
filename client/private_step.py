"""One private step: clip each example's gradient, add up, add noise, divide by the expected batch, let the optimizer step.

Example::

    with private_stepper(model, optimizer, plan, source) as step:
        step([lambda: summed_loss(model, rows, piece) for piece in pieces])      # no micro-batch: nobody was drawn

Where gradients by example are small (LoRA factors, heads) they are formed, and Opacus' own optimizer clips them. Where every
weight is trained they are not formed: :mod:`fedrelease.models.bookkeeping` tells their lengths and their clipped sum.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from fedrelease.client.sampling import Randomness
from fedrelease.models.bookkeeping import Books, book_keeping, form_sums, gradient_lengths, keeps_books
from fedrelease.models.per_example import per_example
from fedrelease.models.precision import exact_matmul, matmul
from fedrelease.privacy import PrivacyPlan

__all__ = ["PrivateOptimizer", "clip_factors", "private_stepper"]

LEAST = 1e-6
"""What Opacus adds to a length before it divides by it."""

Losses: TypeAlias = Sequence[Callable[[], Tensor]]


def clip_factors(lengths: Tensor, clip: float) -> Tensor:
    """What each gradient is multiplied by, so that it is at most ``clip`` long; 0 where the length is not finite.

    Opacus' own: ``min(1, clip / (length + 1e-6))``. No noise hides a NaN.
    """
    return torch.where(torch.isfinite(lengths), (clip / (lengths + LEAST)).clamp(max=1.0), 0.0)


@contextmanager
def private_stepper(
    model: nn.Module, optimizer: torch.optim.Optimizer, plan: PrivacyPlan, source: Randomness
) -> Iterator[Callable[[Losses], None]]:
    """A function that takes the summed losses of a batch's micro-batches and makes one noisy step of them.

    Raises:
        ModelError: a trained parameter is in no layer whose gradients can be told apart by example.
    """
    private = PrivateOptimizer(optimizer, plan, source)
    if keeps_books(model):
        with book_keeping(model) as books:
            yield lambda losses: _booked_step(books, private, plan, losses)
    else:
        with per_example(model):
            yield lambda losses: _formed_step(private, losses)


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus ships no types
    """Opacus' optimizer with noise from our source; its own wants a torch generator, whose seed anybody can try out."""

    def __init__(self, optimizer: torch.optim.Optimizer, plan: PrivacyPlan, source: Randomness) -> None:
        """Take clipping norm, noise and divisor from the plan and from nowhere else."""
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clip,
            expected_batch_size=plan.batch_size,
        )
        self._deviation = plan.noise_multiplier * plan.clip
        self._source = source

    def add_noise(self) -> None:
        """Add noise to the sum of clipped gradients, parameter by parameter."""
        for parameter in self.params:
            noise = self._source.normal(self._deviation, parameter.shape, dtype=parameter.dtype)
            parameter.grad = (parameter.summed_grad + noise).to(parameter.dtype).view_as(parameter)
            parameter.summed_grad = None  # of every weight it is as large as the model

    def step_with_sums(self) -> None:
        """From the clipped sums in ``summed_grad``: noise, division by the expected batch, step. What has no sum adds zero."""
        for parameter in self.params:
            if parameter.summed_grad is None:
                parameter.summed_grad = torch.zeros_like(parameter)
        self.add_noise()
        for parameter in self.params:
            parameter.grad /= self.expected_batch_size
        self.original_optimizer.step()
        self.original_optimizer.zero_grad(set_to_none=True)


def _formed_step(optimizer: PrivateOptimizer, losses: Losses) -> None:
    if not losses:  # nobody was drawn: the sum is zero, and noise, step and accounting happen all the same
        for parameter in optimizer.params:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        _clipped(optimizer, last=True)
    for number, loss in enumerate(losses, start=1):
        torch.autograd.backward(loss())
        _clipped(optimizer, last=number == len(losses))


def _clipped(optimizer: PrivateOptimizer, *, last: bool) -> None:
    """Clip and add up; after the last micro-batch also add noise and step. Norms and sums stay in full float32."""
    for parameter in optimizer.params:
        if parameter.grad_sample is not None:  # else Opacus says so
            parameter.grad_sample = torch.nan_to_num(parameter.grad_sample, nan=0.0, posinf=0.0, neginf=0.0)
    with matmul("highest"):
        optimizer.signal_skip_step(do_skip=not last)
        optimizer.step()
        optimizer.zero_grad()


def _booked_step(books: Books, optimizer: PrivateOptimizer, plan: PrivacyPlan, losses: Losses) -> None:
    for loss in losses:
        torch.autograd.backward(loss())
        with exact_matmul():
            form_sums(books, clip_factors(gradient_lengths(books), plan.clip))
    with matmul("highest"):
        optimizer.step_with_sums()
