"""RoLoRA: train one LoRA factor in a round and the other in the next, so that averaging is exact in both.

Example::

    [RoLoRA().directives(round) for round in (1, 2)]         # [{"freeze": "lora_A"}, {"freeze": "lora_B"}]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.update import State, Update

__all__ = ["RoLoRA"]


@dataclass(frozen=True, kw_only=True)
class RoLoRA(Strategy):
    """Federated averaging in which A stays as it came in odd rounds of the plan, and B in even ones; the head is always trained.

    With one factor equal everywhere the mean of the products is the product of the means. Unlike with A frozen for good
    (``ffa-lora``) both are learnt. A plan whose first round were an even one would begin with a B of zeros, through which A
    learns nothing: so B comes first.

    Args:
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Source: Chen et al. (2024), https://arxiv.org/abs/2409.02346, and (2025), https://arxiv.org/abs/2502.01755: alternating
    minimisation of the factors, round by round.
    """

    weighting: str = "uniform"

    adapters: ClassVar[tuple[str, ...]] = ("lora",)

    def __post_init__(self) -> None:
        """Check the knob."""
        FedAvg(weighting=self.weighting)

    def directives(self, round: int) -> Mapping[str, float | str | bool]:
        """Clients leave one factor as it came."""
        return {"freeze": "lora_A" if round % 2 else "lora_B"}

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """As FedAvg; a mean of zero deltas leaves the frozen factor bit for bit what it was."""
        return FedAvg(weighting=self.weighting).aggregate(parent, updates, memory)
