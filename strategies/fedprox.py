"""FedProx: average as FedAvg does, while every site is held near the parent.

Example::

    FedProx(mu=0.1).directives(1)                            # {"proximal_mu": 0.1}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.strategies.ranges import not_negative
from fedrelease.update import State, Update

__all__ = ["FedProx"]


@dataclass(frozen=True, kw_only=True)
class FedProx(Strategy):
    """Federated averaging of sites that add ``mu / 2 * |w - parent|^2`` to their loss.

    Args:
        mu: of the proximal term; 0 is FedAvg. The paper tries 0.001, 0.01, 0.1 and 1.
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Source: Li et al. (2020), https://arxiv.org/abs/1812.06127, equation 2 and algorithm 2.
    """

    mu: float = 0.01
    weighting: str = "uniform"

    def __post_init__(self) -> None:
        """Check the knobs."""
        not_negative("mu", self.mu)
        FedAvg(weighting=self.weighting)

    def directives(self, round: int) -> Mapping[str, float | str | bool]:
        """Sites add the proximal term; its centre is the state that they received."""
        return {"proximal_mu": float(self.mu)}

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """As FedAvg."""
        return FedAvg(weighting=self.weighting).aggregate(parent, updates, memory)
