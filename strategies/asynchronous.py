"""Rules that do not wait for the slowest: a round ends when enough updates are there, and an update may be of an older release.

Example::

    FedBuff(buffer=0.5).waits_for(10)                  # 5 of 10 sites under way end a round
    FedAsync(mixing=0.6, buffer=1).aggregate(parent, [update], {})

How many releases an update is behind is in ``update.metrics["staleness"]``, put there by the server; nothing there means none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedrelease.strategies.averaging import mean_delta
from fedrelease.strategies.contract import Strategy, check_enough
from fedrelease.strategies.ranges import amount, not_negative, positive, share
from fedrelease.update import State, Update

__all__ = ["FedAsync", "FedBuff", "freshness"]


def freshness(update: Update, power: float) -> float:
    """``(1 + staleness) ** -power``: 1 for an update of the newest release."""
    return float((1.0 + update.metrics.get("staleness", 0.0)) ** -power)


def _waits_for(buffer: float | int, asked: int) -> int:
    return min(asked, max(1, math.ceil(buffer * asked)) if isinstance(buffer, float) else buffer)


@dataclass(frozen=True, kw_only=True)
class FedBuff(Strategy):
    """The parent plus the mean of a buffer of deltas, each scaled down by how stale it is.

    Args:
        buffer: K, how many updates end a round: a share of the sites under way, or a number of them.
        lr: the server's learning rate.
        power: of the staleness weight ``(1 + staleness) ** -power``; 1/2 in the paper, 0 takes no notice.

    Source: Nguyen et al. (2022), https://arxiv.org/abs/2106.06639, algorithm 1, and section 5 for the weight.
    """

    buffer: float | int = 0.5
    lr: float = 1.0
    power: float = 0.5

    def __post_init__(self) -> None:
        """Check the knobs."""
        amount("buffer", self.buffer)
        positive("lr", self.lr)
        not_negative("power", self.power)

    def waits_for(self, asked: int) -> int:
        """K."""
        return _waits_for(self.buffer, asked)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """``x + lr / K * sum(s(tau_k) delta_k)``, summed in float64.

        Raises:
            RoundFailed: no update.
        """
        check_enough(self, "fedbuff", updates)
        weights = [self.lr * freshness(update, self.power) / len(updates) for update in updates]
        return {
            name: (tensor.double() + mean_delta(name, tensor, updates, weights)).to(tensor.dtype)
            for name, tensor in parent.items()
        }, {}


@dataclass(frozen=True, kw_only=True)
class FedAsync(Strategy):
    """The parent mixed with the state of one site after the other; a stale one counts less.

    Args:
        mixing: alpha, how far to go to the state of a site that is not stale.
        power: a, of ``alpha * (1 + staleness) ** -a``, the paper's polynomial form; 0 takes no notice.
        buffer: how many updates end a round, mixed in the order of the sites' names; 1 as in the paper.

    Source: Xie et al. (2019), https://arxiv.org/abs/1903.03934, algorithm 1 and section 5.2.
    """

    equal_stays_equal = False
    from_newest = True

    mixing: float = 0.6
    power: float = 0.5
    buffer: float | int = 1

    def __post_init__(self) -> None:
        """Check the knobs."""
        share("mixing", self.mixing)
        not_negative("power", self.power)
        amount("buffer", self.buffer)

    def waits_for(self, asked: int) -> int:
        """The buffer."""
        return _waits_for(self.buffer, asked)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """``x <- (1 - alpha_k) x + alpha_k x_k`` for each update in turn, which is one weighted sum, in float64.

        Raises:
            RoundFailed: no update.
        """
        check_enough(self, "fedasync", updates)
        weights, rest = [0.0] * len(updates), 1.0
        for place in reversed(range(len(updates))):
            part = self.mixing * freshness(updates[place], self.power)
            weights[place], rest = part * rest, rest * (1 - part)
        return {
            name: (tensor.to(torch.float64) + mean_delta(name, tensor, updates, weights)).to(tensor.dtype)
            for name, tensor in parent.items()
        }, {}
