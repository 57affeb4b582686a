"""q-FedAvg: sites on which the parent does badly count for more.

Example::

    QFedAvg(q=1.0, local_lr=0.1).aggregate(parent, updates, {})     # updates that tell metrics["loss"]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedrelease.strategies.averaging import moved_by_mean
from fedrelease.strategies.contract import Strategy, check_enough
from fedrelease.strategies.ranges import not_negative, positive
from fedrelease.strategies.told import told
from fedrelease.update import State, Update

__all__ = ["QFedAvg"]

FLOOR = 1e-10
"""Added to losses, as the authors' code and Flower do: a loss of 0 has no power below 0."""


@dataclass(frozen=True, kw_only=True)
class QFedAvg(Strategy):
    """Fair averaging: the parent plus ``sum_k L F_k^q delta_k / sum_k h_k``, ``h_k = q F_k^(q-1) |L delta_k|^2 + L F_k^q``.

    ``F_k`` is the mean training loss of the parent's state on site k's rows and ``L = 1 / local_lr``. **A loss is private**: it
    is computed from every row without noise. An experiment whose ``privacy.unit`` is not ``none`` refuses this strategy.

    Args:
        q: how much fairness matters; 0 is FedAvg with one vote a site, infinity would be minimax.
        local_lr: the sites' learning rate; say what ``training.lr`` says.

    Source: Li et al. (2020), https://arxiv.org/abs/1905.10497, algorithm 2.
    """

    equal_stays_equal: ClassVar[bool] = False
    tells: ClassVar[tuple[str, ...]] = ("loss",)

    q: float = 0.1
    local_lr: float = 0.001

    def __post_init__(self) -> None:
        """Check the knobs."""
        not_negative("q", self.q)
        positive("local_lr", self.local_lr)

    def directives(self, round: int) -> Mapping[str, float | str | bool]:
        """Sites tell the loss of the state that they received, before they train."""
        return {"tell_loss": True}

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Two passes over the updates, first for their lengths; one tensor of one site at a time, in float64.

        Raises:
            RoundFailed: no update, or a site does not tell its loss.
        """
        check_enough(self, "qfedavg", updates)
        losses = [loss + FLOOR for loss in told(updates, "loss", least=0.0, strategy="qfedavg")]
        powers = [(loss / max(losses)) ** self.q for loss in losses]  # a common factor cancels, and none overflows
        curvatures = [
            self.q * power / loss * _squared_length(parent, update) / self.local_lr + power
            for power, loss, update in zip(powers, losses, updates, strict=True)
        ]
        shares = [power / sum(curvatures) for power in powers]  # both are divided by L
        return {name: moved_by_mean(name, tensor, updates, shares) for name, tensor in parent.items()}, {}


def _squared_length(parent: State, update: Update) -> float:
    """Of the delta, over the parent's names."""
    return sum(float(update.tensors[name].double().square().sum()) for name in parent)
