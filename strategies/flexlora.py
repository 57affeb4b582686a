"""FlexLoRA: average the products of LoRA's factors, and factor the mean anew.

Example::

    FlexLoRA(weighting="uniform").aggregate(parent, updates, {})
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedrelease.factors import FIRST, SECOND, is_factor, layers_of
from fedrelease.strategies.averaging import check_weighting, moved_by_mean, weights_of
from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.lora import Product, best_factors, mean_product, stacked
from fedrelease.update import State, Update

__all__ = ["FlexLoRA"]


@dataclass(frozen=True, kw_only=True)
class FlexLoRA(Strategy):
    """Each layer's ``mean(B_k A_k)``, cut to the parent's rank by its singular values; all other tensors as FedAvg.

    Exact where the mean has no more than the parent's rank, else the nearest there is; what was cut off stands in the release as
    ``lora_residual``. A site of lower rank receives the leading singular directions. The mean counts what such a site never
    received as zero, as published: with few sites of full rank the trailing directions shrink from round to round.

    HLoRA (Liu et al., 2025, https://arxiv.org/abs/2503.00813) reconstructs the same mean, weighted by examples, and cuts it so:
    the kit's ``hlora`` is another name of this rule. Both papers mean ``weighting = "examples"``; counts may be private.

    Args:
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Source: Bai et al. (2024), https://arxiv.org/abs/2402.11505, section 3; how the values are shared between the factors, and
    why: :func:`fedrelease.strategies.lora.best_factors`.
    """

    weighting: str = "uniform"

    adapters: ClassVar[tuple[str, ...]] = ("full", "lora")
    mixed_ranks: ClassVar[bool] = True
    same_product: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the knob."""
        check_weighting(self.weighting)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Products through QR and a small SVD in float64, never the dense matrix; the rest one tensor of one site at a time.

        Raises:
            RoundFailed: no update, or the weights add up to 0 examples.
        """
        weights = weights_of(updates, self.weighting)
        factors: dict[str, Tensor] = {}
        for layer in layers_of(parent.keys()):
            factors.update(_factored(layer, parent, updates, weights))
        return {
            name: factors[name] if is_factor(name) else moved_by_mean(name, tensor, updates, weights)
            for name, tensor in parent.items()
        }, {}


def _factored(layer: str, parent: State, updates: Sequence[Update], weights: Sequence[float]) -> dict[str, Tensor]:
    """Both factors in the parent's ranks. Its own A is stacked too, times zero: where sites bring too few directions."""
    first, second = parent[layer + FIRST], parent[layer + SECOND]
    spare = Product(left=second.double() * 0.0, right=first.double())
    found = best_factors(stacked([mean_product(layer, parent, updates, weights), spare]), len(first))
    return {layer + FIRST: found[0].to(first.dtype), layer + SECOND: found[1].to(second.dtype)}
