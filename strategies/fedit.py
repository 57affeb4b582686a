"""FedIT: average LoRA's factors as if they were weights; the naive rule that others are compared with.

Example::

    FedIT(weighting="uniform").aggregate(parent, updates, {})
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedrelease.strategies.averaging import check_weighting, weights_of
from fedrelease.strategies.contract import Strategy
from fedrelease.update import State, Update

__all__ = ["FedIT"]


@dataclass(frozen=True, kw_only=True)
class FedIT(Strategy):
    """The weighted mean of every A and of every B; factors of lower rank are filled with zeros.

    ``mean(B_k) mean(A_k)`` is not ``mean(B_k A_k)``: what it misses stands in each release as ``lora_residual``. With equal ranks
    it is :class:`fedrelease.strategies.fedavg.FedAvg`, bit for bit. With mixed ranks the zeros also shrink what only some sites
    train, so that one site alone does not give its own state back when it has the lower rank.

    Args:
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Source: Zhang et al. (2024), https://arxiv.org/abs/2305.05644, section 3; the zeros: Cho et al. (2024),
    https://arxiv.org/abs/2401.06432, section 3.
    """

    weighting: str = "uniform"

    adapters: ClassVar[tuple[str, ...]] = ("full", "lora")
    mixed_ranks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the knob."""
        check_weighting(self.weighting)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Sum in float64, one tensor of one site at a time.

        Raises:
            RoundFailed: no update, or the weights add up to 0 examples.
        """
        weights = weights_of(updates, self.weighting)
        return {name: _mean(name, tensor, updates, weights) for name, tensor in parent.items()}, {}


def _mean(name: str, parent: Tensor, updates: Sequence[Update], weights: Sequence[float]) -> Tensor:
    total = parent.double().clone()
    for update, weight in zip(updates, weights, strict=True):
        total.add_(_filled(update.tensors[name], parent), alpha=weight)
    return total.to(parent.dtype)


def _filled(delta: Tensor, parent: Tensor) -> Tensor:
    """A delta of the parent's shape: a site ends with zero in the ranks that it lacks, which is minus the parent from there."""
    if delta.shape == parent.shape:
        return delta
    whole = -parent.double()
    whole[tuple(slice(size) for size in delta.shape)] = delta.double()
    return whole
