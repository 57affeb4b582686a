"""Fisher merging: each number of each site counts by how sure the site is of it.

Example::

    Fisher().directives(1)                                   # {"tell_fisher": True}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedrelease.adapter import ADAPTER_KINDS
from fedrelease.strategies.contract import Strategy, check_enough
from fedrelease.strategies.ranges import positive
from fedrelease.update import State, Update

__all__ = ["Fisher"]

KIND = "fisher"


@dataclass(frozen=True, kw_only=True)
class Fisher(Strategy):
    """The parent plus, number by number, the mean of the deltas weighted by the sites' Fisher information.

    Each site tells, beside its state, the mean square of its rows' gradients at it: twice the bytes up. It is computed from every
    training row, so that an experiment with privacy refuses this strategy. Weights of a pretrained base have gradients that no
    site forms by row: adapters that train them are refused.

    Args:
        floor: information below it counts as it, so that numbers that no site cares for become their plain mean.

    Guarantees: a number never leaves the range of the sites' numbers. One tensor of one site is in memory at a time.

    Source: Matena and Raffel (2022), https://arxiv.org/abs/2111.09832, section 3, with equal weights.
    """

    adapters: ClassVar[tuple[str, ...]] = tuple(kind for kind in ADAPTER_KINDS if kind not in ("layers", "norms"))
    companions: ClassVar[tuple[str, ...]] = (KIND,)
    tells: ClassVar[tuple[str, ...]] = ("Fisher information",)

    floor: float = 1e-6

    def __post_init__(self) -> None:
        """Check the knob."""
        positive("floor", self.floor)

    def directives(self, round: int) -> Mapping[str, float | str | bool]:
        """Sites tell their Fisher information."""
        return {"tell_fisher": True}

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """``x + sum(F_k delta_k) / sum(F_k)`` in float64; the result has the parent's dtypes.

        Raises:
            RoundFailed: no update.
        """
        check_enough(self, "fisher", updates)
        return {name: self._merged(name, tensor, updates) for name, tensor in parent.items()}, {}

    def _merged(self, name: str, parent: Tensor, updates: Sequence[Update]) -> Tensor:
        total, weight = torch.zeros(parent.shape, dtype=torch.float64), torch.zeros(parent.shape, dtype=torch.float64)
        for update in updates:
            information = update.tensors[f"{KIND}/{name}"].to(torch.float64).clamp_(min=self.floor)
            total.addcmul_(information, update.tensors[name].to(torch.float64))
            weight.add_(information)
        return (parent.to(torch.float64) + total.div_(weight)).to(parent.dtype)
