"""FLoRA: stack the sites' LoRA factors, which adds their products up exactly; a release keeps the parent's rank of it.

Example::

    first, second = stacked_factors("encoder.0.query", parent, updates, weights)     # second @ first: the exact mean
    FLoRA(weighting="uniform").aggregate(parent, updates, {})
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.flexlora import FlexLoRA
from fedrelease.strategies.lora import Product, site_product, stacked
from fedrelease.update import State, Update

__all__ = ["FLoRA", "stacked_factors"]


@dataclass(frozen=True, kw_only=True)
class FLoRA(Strategy):
    """The stack of all sites' factors, cut to the parent's rank; all other tensors as FedAvg.

    As published, the stack goes to every site and is merged into the base, which then is another one. Here a base is known by
    its digest and never changes, and a stack kept beside it would grow by the sum of ranks in each round. So it is cut by its
    singular values, which makes it :class:`fedrelease.strategies.flexlora.FlexLoRA`, bit for bit; what was cut off stands in the
    release as ``lora_residual``. The exact stack is :func:`stacked_factors`.

    Args:
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Source: Wang et al. (2024), https://arxiv.org/abs/2409.05976, section 3.
    """

    weighting: str = "uniform"

    adapters: ClassVar[tuple[str, ...]] = ("full", "lora")
    mixed_ranks: ClassVar[bool] = True
    same_product: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the knob."""
        FlexLoRA(weighting=self.weighting)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """As FlexLoRA.

        Raises:
            RoundFailed: no update, or the weights add up to 0 examples.
        """
        return FlexLoRA(weighting=self.weighting).aggregate(parent, updates, memory)


def stacked_factors(
    layer: str, parent: State, updates: Sequence[Update], weights: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """A ``[sum of ranks, in]`` and B ``[out, sum of ranks]``, float64, with ``B A`` the weighted mean of ``B_k A_k``.

    The weights are put into B. Memory grows with the sites: for studies of few of them, and for a rule that merges what it gets.
    """
    each = [(site_product(layer, parent, update), weight) for update, weight in zip(updates, weights, strict=True)]
    whole = stacked([Product(left=weight * one.left, right=one.right) for one, weight in each])
    return whole.right, whole.left
