"""BatchNorm out of the way: it lets rows of a batch see each other, so that no row has a gradient of its own.

Its running statistics, too, would leave a site without noise. It is frozen with the statistics that it came with, or replaced.

Example::

    without_batch_norm(encoder, "frozen")        # 20: layers that were replaced
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

__all__ = ["FrozenNorm", "without_batch_norm"]

CHANNELS = 16
"""A group; Wu and He (2018), https://arxiv.org/abs/1803.08494, section 4.1."""


class FrozenNorm(nn.Module):
    """A BatchNorm in evaluation, for good: each channel times a number plus a number. Nothing of it is trained."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        """Take over statistics and weights."""
        super().__init__()
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        scale = norm.weight.detach() / torch.sqrt(variance + norm.eps)
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        self.register_buffer("shift", (norm.bias.detach() - mean * scale)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[rows, channels, height, width]``."""
        return x * self.scale + self.shift


def without_batch_norm(encoder: nn.Module, how: str) -> int:
    """Replace each BatchNorm, in place, and return how many there were.

    Args:
        how: ``frozen``, with its statistics; or ``group``, by a GroupNorm with its weights.
    """
    found = [(name, module) for name, module in encoder.named_modules() if isinstance(module, nn.BatchNorm2d)]
    for name, norm in found:
        parent, _, last = name.rpartition(".")
        setattr(encoder.get_submodule(parent), last, FrozenNorm(norm) if how == "frozen" else _group_norm(norm))
    return len(found)


@torch.no_grad()
def _group_norm(norm: nn.BatchNorm2d) -> nn.GroupNorm:
    group = nn.GroupNorm(norm.num_features // math.gcd(CHANNELS, norm.num_features), norm.num_features, eps=norm.eps)
    group.weight.copy_(norm.weight)
    group.bias.copy_(norm.bias)
    return group.requires_grad_(norm.weight.requires_grad)
