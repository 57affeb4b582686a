"""What gradients are, one example at a time through torch's and PEFT's own layers: what the quick ways are checked against.

Example::

    truth = one_at_a_time(trained, lambda row: summed_loss(model, rows, torch.tensor([row])), examples=4)
    compare("the gradient of head.weight", found, truth.sums["head.weight"])       # ModelError when they differ
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedrelease.client.sampling import seeded_generator
from fedrelease.errors import ModelError

__all__ = ["EXAMPLES", "TOLERANCE", "Truth", "compare", "one_at_a_time", "shaken"]

EXAMPLES = 4
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Length of the difference over length of the gradient; in bfloat16 the two ways round at different places."""
LEAST = 1e-6


@dataclass(frozen=True, kw_only=True)
class Truth:
    """By parameter: each example's length of gradient, float32 ``[examples]``, and the sum of the gradients."""

    lengths: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]


def one_at_a_time(trained: Mapping[str, nn.Parameter], loss: Callable[[int], Tensor], *, examples: int) -> Truth:
    """Of the losses of rows 0, 1, ... No more than two copies of all gradients are held."""
    lengths: dict[str, list[Tensor]] = {name: [] for name in trained}
    sums = {name: torch.zeros_like(value) for name, value in trained.items()}
    for row in range(examples):
        gradients = torch.autograd.grad(loss(row), list(trained.values()))
        for name, gradient in zip(trained, gradients, strict=True):
            lengths[name].append(gradient.norm())
            sums[name] += gradient
    return Truth(lengths={name: torch.stack(found) for name, found in lengths.items()}, sums=sums)


def compare(what: str, found: Tensor, expected: Tensor, *, allowed: float, least: float = LEAST) -> None:
    """Refuse to train when they differ by more than the share ``allowed`` of their length.

    Args:
        least: what is shorter may be rounding, and is compared with this.

    Raises:
        ModelError: they do; ``what`` opens its text.
    """
    off = float((found - expected).detach().norm() / (expected.norm() + least))
    if not off <= allowed:
        raise ModelError(
            f"{what} wrong",
            value=f"off by {off:.3g} of their length",
            rule=f"on {EXAMPLES} rows they are those of one row at a time, within {allowed:g}",
            hint="nothing was trained or charged; compare torch, peft and transformers with constraints.txt",
        )


@contextmanager
def shaken(trained: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Within it no trained number is zero: a factor or head that is hides what is wrong with another one's gradient."""
    before = {name: value.detach().clone() for name, value in trained.items()}
    numbers = seeded_generator("self-test")
    with torch.no_grad():
        for name in sorted(trained):
            trained[name].add_(0.05 * torch.randn(trained[name].shape, generator=numbers))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                trained[name].copy_(value)
