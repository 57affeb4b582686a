"""Fed-SB: average the small cores that sites train between frozen bases, which is exact.

Example::

    FedSB(weighting="uniform").aggregate(parent, updates, {})[0]["encoder.0.query.lora_R"]         # [rank, rank]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.update import State, Update

__all__ = ["FedSB"]


@dataclass(frozen=True, kw_only=True)
class FedSB(Strategy):
    """The weighted mean of every core R and of the head, on adapters of kind ``lora-sb`` only.

    With A and B equal everywhere, ``mean(B R_k A) = B mean(R_k) A``: averaging is exact, and privacy noise on R is multiplied by
    nothing that is noisy. The arithmetic is :class:`fedrelease.strategies.fedavg.FedAvg`'s; what is Fed-SB's is the adapter.

    Args:
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Source: Singhal et al. (2025), https://arxiv.org/abs/2502.15436, with bases from the weight and not from gradients of rows.
    """

    weighting: str = "uniform"

    adapters: ClassVar[tuple[str, ...]] = ("lora-sb",)

    def __post_init__(self) -> None:
        """Check the knob."""
        FedAvg(weighting=self.weighting)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """As FedAvg.

        Raises:
            RoundFailed: no update, or the weights add up to 0 examples.
        """
        return FedAvg(weighting=self.weighting).aggregate(parent, updates, memory)
