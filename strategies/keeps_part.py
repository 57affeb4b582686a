"""What strategies have in common whose sites keep a part of the model to themselves: all else is shared and averaged.

Example::

    class FedPer(KeepsPart):
        part: ClassVar[str] = "head"                         # FedPer().directives(1) == {"private": "head"}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedrelease.strategies.averaging import mean_of_shared
from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.update import State, Update

__all__ = ["KeepsPart"]


@dataclass(frozen=True, kw_only=True)
class KeepsPart(Strategy):
    """Federated averaging of all but one part, which each site trains and keeps.

    One site alone is not given back what it ended with, only what it shared; hence ``equal_stays_equal`` is not promised.

    Attributes:
        part: which one, as the directive ``private`` names it.

    Args:
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.
    """

    equal_stays_equal: ClassVar[bool] = False
    part: ClassVar[str]

    weighting: str = "uniform"

    def __post_init__(self) -> None:
        """Check the knob."""
        FedAvg(weighting=self.weighting)

    def directives(self, round: int) -> Mapping[str, float | str | bool]:
        """Clients train the part, keep it, and send the one that came."""
        return {"private": self.part}

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """As FedAvg, but for the part: it is the parent's bit for bit, and no update's is read.

        Raises:
            RoundFailed: as FedAvg.
        """
        return mean_of_shared(parent, updates, self.weighting, private=self.part), {}
