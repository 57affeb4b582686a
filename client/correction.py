"""What a strategy adds to the gradients of local training, just before the optimizer makes its step of them.

Example::

    with corrected(model, optimizer, Correction(pull=0.01)):          # FedProx, mu = 0.01
        optimizer.step()                                              # of gradient + 0.01 * (w - w_before)

The data's part of a gradient is done by then: it is clipped (``training.grad_clip``, or example by example), and with privacy it
has its noise. What is added holds no data beyond what earlier noisy gradients told, so that it changes neither the sensitivity of
a step nor its cost: post-processing (Dwork and Roth, 2014, https://doi.org/10.1561/0400000042, proposition 2.1).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedrelease.models.classifier import canonical_name
from fedrelease.update import State

__all__ = ["Correction", "MeanGradient", "corrected"]


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What each gradient gets.

    Attributes:
        pull: times the way that the weights have come from where training began.
        shift: added as it is, by canonical name; what is not named gets nothing.
    """

    pull: float = 0.0
    shift: State = field(default_factory=dict)


class MeanGradient:
    """The mean of the gradients that came to the optimizer, before any correction; a private site's is as noisy as they are."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, gradient: Tensor) -> None:
        """Add one step's gradient of one parameter."""
        before = self._sums.get(name)
        self._sums[name] = gradient.detach().clone() if before is None else before.add_(gradient)

    def over(self, steps: int) -> dict[str, Tensor]:
        """By canonical name, float32; parameters that had no gradient are left out."""
        return {name: total / steps for name, total in self._sums.items()}


@contextmanager
def corrected(
    model: nn.Module, optimizer: torch.optim.Optimizer, correction: Correction, seen: MeanGradient | None = None
) -> Iterator[None]:
    """Within it each step of ``optimizer`` is made of corrected gradients; ``seen`` notes what they were before.

    It serves every way to train: Opacus' optimizer steps through the one that it wraps, and where sites are stacked each
    parameter holds all of theirs.
    """
    if not correction.pull and not correction.shift and seen is None:
        yield
        return
    names = {value: canonical_name(name) for name, value in model.named_parameters() if value.requires_grad}
    began = {value: value.detach().clone() for value in names} if correction.pull else {}

    def hook(*_: object) -> None:
        for parameter, name in names.items():
            if parameter.grad is not None:
                _correct(parameter, parameter.grad, name, began.get(parameter), correction, seen)

    handle = optimizer.register_step_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _correct(
    parameter: Tensor,
    gradient: Tensor,
    name: str,
    began: Tensor | None,
    correction: Correction,
    seen: MeanGradient | None,
) -> None:
    if seen is not None:
        seen.add(name, gradient)
    if began is not None:
        gradient.add_(parameter - began, alpha=correction.pull)
    if name in correction.shift:
        gradient.add_(correction.shift[name])
