"""FFA-LoRA: average the B factors while every site keeps the same random A.

Example::

    FFALoRA(weighting="uniform").directives(1)               # {"freeze": "lora_A"}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.update import State, Update

__all__ = ["FFALoRA"]


@dataclass(frozen=True, kw_only=True)
class FFALoRA(Strategy):
    """Federated averaging of LoRA's B factors and the head; A stays what the base's release drew it to be.

    With A equal everywhere, ``mean(B_k) A = mean(B_k A)``: averaging is exact, and privacy noise on B is not multiplied by
    noise on A. Half as many numbers are trained, so that the same clipping norm holds less noise.

    Args:
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Source: Sun et al. (2024), https://arxiv.org/abs/2403.12313, section 4.
    """

    weighting: str = "uniform"

    adapters: ClassVar[tuple[str, ...]] = ("lora",)

    def __post_init__(self) -> None:
        """Check the knob."""
        FedAvg(weighting=self.weighting)

    def directives(self, round: int) -> Mapping[str, float | str | bool]:
        """Clients leave every A factor as it came."""
        return {"freeze": "lora_A"}

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """As FedAvg; a mean of zero deltas leaves A bit for bit what it was."""
        return FedAvg(weighting=self.weighting).aggregate(parent, updates, memory)
