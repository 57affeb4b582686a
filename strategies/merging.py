"""Rules from model merging, where a site's delta is called a task vector.

Example::

    Ties(density=0.2, scaling=1.0).aggregate(parent, updates, {})
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from fedrelease.strategies.averaging import check_weighting, moved_by_mean, weights_of
from fedrelease.strategies.contract import Strategy, check_enough
from fedrelease.strategies.ranges import part, positive, share, whole
from fedrelease.update import State, Update

__all__ = ["Dare", "TaskArithmetic", "Ties", "trimmed"]

ROUND = "dare/round"


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(Strategy):
    """The parent plus ``scaling`` times the **sum** of the sites' deltas: not their mean, so that many sites move it far.

    Args:
        scaling: 1 / sites gives FedAvg; 0.4 suited a handful of unlike tasks.

    Source: Ilharco et al. (2023), https://arxiv.org/abs/2212.04089, section 2 (addition).
    """

    equal_stays_equal: ClassVar[bool] = False

    scaling: float = 0.4

    def __post_init__(self) -> None:
        """Check the knob."""
        positive("scaling", self.scaling)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Sum in float64, one tensor of one site at a time.

        Raises:
            RoundFailed: no update.
        """
        check_enough(self, "task-arithmetic", updates)
        weights = [self.scaling] * len(updates)
        return {name: moved_by_mean(name, tensor, updates, weights) for name, tensor in parent.items()}, {}


@dataclass(frozen=True, kw_only=True)
class Ties(Strategy):
    """Trim, elect signs, merge: small changes are left out, then whatever goes against the heavier sign.

    Each tensor is trimmed by itself, so that a LoRA factor that is small everywhere still has its say; the paper trims all of
    a model in one. Numbers as large as the smallest one that is kept are kept too. One site, one vote.

    Args:
        density: share of each tensor's numbers that a site keeps, those of greatest magnitude; at least one number.
        scaling: of the merged delta.

    Source: Yadav et al. (2023), https://arxiv.org/abs/2306.01708, algorithm 1.
    """

    equal_stays_equal: ClassVar[bool] = False

    density: float = 0.2
    scaling: float = 1.0

    def __post_init__(self) -> None:
        """Check the knobs."""
        share("density", self.density)
        positive("scaling", self.scaling)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Two passes over the updates for each tensor, first for the signs; one tensor of one site at a time, in float64.

        Raises:
            RoundFailed: no update.
        """
        check_enough(self, "ties", updates)
        return {name: self._merged(name, tensor, updates) for name, tensor in parent.items()}, {}

    def _merged(self, name: str, parent: Tensor, updates: Sequence[Update]) -> Tensor:
        balance = torch.zeros(parent.shape, dtype=torch.float64)
        for update in updates:
            balance.add_(trimmed(update.tensors[name], self.density))
        sign, total, voices = balance.sign_(), torch.zeros_like(balance), torch.zeros_like(balance)
        for update in updates:
            kept = trimmed(update.tensors[name], self.density)
            agrees = (kept.sign() == sign) & (sign != 0)
            total.add_(kept.mul_(agrees))
            voices.add_(agrees)
        return (parent.double() + self.scaling * total / voices.clamp_(min=1)).to(parent.dtype)


def trimmed(delta: Tensor, density: float) -> Tensor:
    """A copy in float64 in which all but the largest magnitudes are 0; same shape."""
    values = delta.to(torch.float64, copy=True)
    sizes = values.abs().flatten()
    least = sizes.kthvalue(sizes.numel() - math.ceil(density * sizes.numel()) + 1).values
    return values.mul_(values.abs() >= least)


@dataclass(frozen=True, kw_only=True)
class Dare(Strategy):
    """Drop and rescale: most numbers of each delta are dropped at random, the rest is scaled up, and then it is FedAvg.

    The expectation is FedAvg's state, and the noise falls with the number of sites. What is dropped follows from the seed, the
    round, the site and the tensor's name alone; the round is counted in the memory, ``dare/round``.

    Args:
        drop: chance of each number to be dropped; those that stay are multiplied by 1 / (1 - drop).
        seed: another one drops others.
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Source: Yu et al. (2024), https://arxiv.org/abs/2311.03099, section 3.
    """

    equal_stays_equal: ClassVar[bool] = False

    drop: float = 0.9
    seed: int = 0
    weighting: str = "uniform"

    def __post_init__(self) -> None:
        """Check the knobs."""
        part("drop", self.drop)
        whole("seed", self.seed)
        check_weighting(self.weighting)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Sum in float64, one tensor of one site at a time.

        Raises:
            RoundFailed: no update, or the weights add up to 0 examples.
        """
        weights = weights_of(updates, self.weighting)
        number = (int(memory[ROUND]) if ROUND in memory else 0) + 1
        state = {name: self._moved(name, tensor, updates, weights, number) for name, tensor in parent.items()}
        return state, {ROUND: torch.tensor(number)}

    def _moved(
        self, name: str, parent: Tensor, updates: Sequence[Update], weights: Sequence[float], number: int
    ) -> Tensor:
        total = parent.to(torch.float64, copy=True)
        for update, weight in zip(updates, weights, strict=True):
            draws = torch.rand(parent.shape, generator=_generator(self.seed, number, update.site, name))
            total.add_(update.tensors[name] * (draws >= self.drop), alpha=weight / (1 - self.drop))
        return total.to(parent.dtype)


def _generator(seed: int, number: int, site: str, name: str) -> Generator:
    """Of one tensor of one site in one round."""
    digest = hashlib.sha256("\x1f".join((str(seed), str(number), site, name)).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=False) >> 1)
