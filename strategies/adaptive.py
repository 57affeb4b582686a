"""FedAdagrad, FedAdam and FedYogi: each number of the state has a server's rate of its own.

Example::

    FedAdam(lr=0.1, tau=1e-3).aggregate(parent, updates, {})
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedrelease.strategies.averaging import check_weighting, mean_delta, narrowed, weights_of
from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.ranges import part, positive
from fedrelease.update import State, Update

__all__ = ["Adaptive", "FedAdagrad", "FedAdam", "FedYogi"]

FIRST, SECOND = "first_moment", "second_moment"


@dataclass(frozen=True, kw_only=True)
class Adaptive(Strategy):
    """What the three have in common: ``m = beta1 m + (1 - beta1) d``, and the parent moves by ``lr m / (sqrt(v) + tau)``.

    ``d`` is the mean of the sites' deltas, ``m`` begins at 0 and ``v`` at tau^2, as in the paper; there is no bias correction.
    Flower's classes of the same names begin at ``v = 0``, and its FedAdam corrects the rate: run those through
    ``from_flower``. Memory is ``first_moment/<name>`` and ``second_moment/<name>``, in float32 or the parent's wider dtype.

    Args:
        lr: the server's learning rate, eta in the paper.
        beta1: share of the last first moment that is kept.
        tau: degree of adaptivity: below it, differences in size between numbers no longer matter.
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Source: Reddi et al. (2021), https://arxiv.org/abs/2003.00295, algorithm 2.
    """

    equal_stays_equal: ClassVar[bool] = False

    lr: float = 0.1
    beta1: float = 0.9
    tau: float = 1e-3
    weighting: str = "uniform"

    def __post_init__(self) -> None:
        """Check the knobs."""
        positive("lr", self.lr)
        part("beta1", self.beta1)
        positive("tau", self.tau)
        check_weighting(self.weighting)
        self.check_further_knobs()

    @abstractmethod
    def check_further_knobs(self) -> None:
        """Refuse what a member's own knobs may not be."""

    @abstractmethod
    def second_moment(self, last: Tensor, squares: Tensor) -> Tensor:
        """The new ``v`` from the last one and ``d^2``."""

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """In float64, one tensor of one site at a time.

        Raises:
            RoundFailed: no update, or the weights add up to 0 examples.
        """
        weights, state, kept = weights_of(updates, self.weighting), dict[str, Tensor](), dict[str, Tensor]()
        for name, tensor in parent.items():
            delta = mean_delta(name, tensor, updates, weights)
            first = self.beta1 * _last(memory, FIRST, name, delta, 0.0) + (1 - self.beta1) * delta
            second = self.second_moment(_last(memory, SECOND, name, delta, self.tau**2), delta.square())
            moved = tensor.double() + self.lr * first / (second.sqrt() + self.tau)
            state[name] = moved.to(tensor.dtype)
            kept[f"{FIRST}/{name}"], kept[f"{SECOND}/{name}"] = narrowed(first, tensor), narrowed(second, tensor)
        return state, kept


def _last(memory: State, kind: str, name: str, like: Tensor, start: float) -> Tensor:
    key = f"{kind}/{name}"
    return memory[key].double() if key in memory else torch.full_like(like, start)


@dataclass(frozen=True, kw_only=True)
class FedAdagrad(Adaptive):
    """``v = v + d^2``: rates only fall. See :class:`Adaptive` for the knobs."""

    beta1: float = 0.0

    def check_further_knobs(self) -> None:
        """There are none."""

    def second_moment(self, last: Tensor, squares: Tensor) -> Tensor:
        """Everything that ever was, added up."""
        return last + squares


@dataclass(frozen=True, kw_only=True)
class FedAdam(Adaptive):
    """``v = beta2 v + (1 - beta2) d^2``. See :class:`Adaptive` for the other knobs.

    Args:
        beta2: share of the last second moment that is kept.
    """

    beta2: float = 0.99

    def check_further_knobs(self) -> None:
        """Check ``beta2``."""
        part("beta2", self.beta2)

    def second_moment(self, last: Tensor, squares: Tensor) -> Tensor:
        """A moving mean."""
        return self.beta2 * last + (1 - self.beta2) * squares


@dataclass(frozen=True, kw_only=True)
class FedYogi(Adaptive):
    """``v = v - (1 - beta2) d^2 sign(v - d^2)``: one large round does not wipe out v. See :class:`Adaptive`.

    Args:
        beta2: 1 - beta2 is the share of d^2 by which v goes up or down.
    """

    lr: float = 0.01
    beta2: float = 0.99

    def check_further_knobs(self) -> None:
        """Check ``beta2``."""
        part("beta2", self.beta2)

    def second_moment(self, last: Tensor, squares: Tensor) -> Tensor:
        """Towards d^2 by a step that does not depend on how far away v is; never below 0."""
        return last - (1 - self.beta2) * squares * (last - squares).sign()
