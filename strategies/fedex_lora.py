"""FedEx-LoRA: average LoRA's factors, and put what their product then misses of the mean of products beside them.

Example::

    state, _ = FedExLoRA(weighting="uniform").aggregate(parent, updates, {})
    state["encoder.0.query.residual"]                        # [out, in]: parent's, plus mean(B_k A_k) - mean(B_k) mean(A_k)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedrelease.errors import RoundFailed
from fedrelease.factors import FIRST, RESIDUAL, SECOND, layers_of, trained_part
from fedrelease.strategies.averaging import check_weighting, weights_of
from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.fedit import FedIT
from fedrelease.strategies.lora import site_product
from fedrelease.update import State, Update

__all__ = ["FedExLoRA"]


@dataclass(frozen=True, kw_only=True)
class FedExLoRA(Strategy):
    """The mean of every A and of every B, and in each layer's residual what the mean of products is more than their product.

    So the released model is the mean of the sites' models, layer by layer, whatever the ranks of the sites: with factors of lower
    rank, A and B are :class:`fedrelease.strategies.fedit.FedIT`'s, whose error is put right too. As published, the residual is
    added to the base's weight. Here a base is known by its digest and never changes: the residual is a tensor of the state, adds
    up over rounds, and has full rank, so that each site is sent as many numbers as the layer's weight has.

    Under privacy it is post-processing, and costs nothing. It does not take noise away: each site's ``B_k A_k`` holds noise on B
    times noise on A, and the exact mean keeps it.

    Args:
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Source: Singhal, Ponkshe and Vepakomma (2024), https://arxiv.org/abs/2410.09432, section 3.
    """

    weighting: str = "uniform"

    adapters: ClassVar[tuple[str, ...]] = ("lora",)
    mixed_ranks: ClassVar[bool] = True
    writes_residual: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the knob."""
        check_weighting(self.weighting)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """One dense matrix in float64 at a time, one site at a time.

        Raises:
            RoundFailed: no update, the weights add up to 0 examples, or a layer of the parent has no residual.
        """
        _check_residuals(parent)
        weights = weights_of(updates, self.weighting)
        averaged, memory = FedIT(weighting=self.weighting).aggregate(trained_part(parent), updates, memory)
        moved = {
            layer + RESIDUAL: _moved(layer, parent, averaged, updates, weights) for layer in layers_of(parent.keys())
        }
        return {**averaged, **moved}, memory


def _moved(layer: str, parent: State, averaged: State, updates: Sequence[Update], weights: Sequence[float]) -> Tensor:
    """The layer's new residual. What is subtracted is the released product, so that the rounding of factors is put right too."""
    before = parent[layer + RESIDUAL]
    total = before.double() - averaged[layer + SECOND].double() @ averaged[layer + FIRST].double()
    for update, weight in zip(updates, weights, strict=True):
        one = site_product(layer, parent, update)
        total.addmm_(one.left, one.right, alpha=weight)
    return total.to(before.dtype)


def _check_residuals(parent: State) -> None:
    missing = [layer for layer in layers_of(parent.keys()) if layer + RESIDUAL not in parent]
    if missing:
        raise RoundFailed(
            f"{missing[0]} has no residual for what averaged factors miss",
            value=", ".join(missing),
            rule=f"fedex-lora needs a tensor <layer>{RESIDUAL} of the weight's shape [out, in] for each layer with factors",
            hint="set [model.adapter] residual = true, which makes them",
        )
