"""Dual adapters: share and average one pair of LoRA factors and the head; every site keeps a second pair of its own.

Example::

    FedDPA(weighting="uniform").directives(1)                # {"private": "second-adapter"}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedrelease.strategies.averaging import mean_of_shared
from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.update import State, Update

__all__ = ["FedDPA"]

PART = "second-adapter"


@dataclass(frozen=True, kw_only=True)
class FedDPA(Strategy):
    """Federated averaging of LoRA's factors and the head; each site trains a second pair of factors too, which never leaves it.

    The second pair (``[model.adapter] own_rank``) lies at the same modules, and a layer adds up both products. A site trains both
    pairs and the head together. A release has the second pair of its parent, whose B is zero: by itself it is the base with the
    shared pair, and with a site's own pair that site's model.

    One site alone is not given back what it ended with, only what it shared; hence ``equal_stays_equal`` is not promised.

    Args:
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Source: Yang et al. (2024), https://arxiv.org/abs/2403.19211: a global adapter that travels and a local one that stays. There
    the local one is trained after the global one, or in turns with it, and each text weighs the two anew; that both are trained
    together, with one weight for every text, is ours.
    """

    equal_stays_equal: ClassVar[bool] = False
    adapters: ClassVar[tuple[str, ...]] = ("lora",)
    keeps_own_pair: ClassVar[bool] = True

    weighting: str = "uniform"

    def __post_init__(self) -> None:
        """Check the knob."""
        FedAvg(weighting=self.weighting)

    def directives(self, round: int) -> Mapping[str, float | str | bool]:
        """Clients train their second pair, keep it, and send the one that came."""
        return {"private": PART}

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """As FedAvg, but for the second pair: it is the parent's bit for bit, and no update's is read.

        Raises:
            RoundFailed: as FedAvg.
        """
        return mean_of_shared(parent, updates, self.weighting, private=PART), {}
