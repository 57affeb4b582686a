"""Federated averaging.

Example::

    FedAvg(weighting="examples").aggregate(parent, updates, {})[0]["head.bias"]
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedrelease.strategies.averaging import check_weighting, moved_by_mean, weights_of
from fedrelease.strategies.contract import Strategy
from fedrelease.update import State, Update

__all__ = ["FedAvg"]


@dataclass(frozen=True, kw_only=True)
class FedAvg(Strategy):
    """The parent plus the weighted mean of the sites' deltas.

    Args:
        weighting: ``uniform`` (one site, one vote: example counts stay private) or ``examples``.

    Source: McMahan et al. (2017), https://arxiv.org/abs/1602.05629, algorithm 1.
    """

    weighting: str = "uniform"

    def __post_init__(self) -> None:
        """Check the knob."""
        check_weighting(self.weighting)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Sum in float64, one tensor of one site at a time, in the order given; the result has the parent's dtypes.

        Raises:
            RoundFailed: no update, or the weights add up to 0 examples.
        """
        weights = weights_of(updates, self.weighting)
        return {name: moved_by_mean(name, tensor, updates, weights) for name, tensor in parent.items()}, {}
