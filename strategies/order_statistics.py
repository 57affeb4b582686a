"""Rules that sort every coordinate: the median and the trimmed mean. One site, one vote.

Example::

    TrimmedMean(trim=0.25).aggregate(parent, updates, {})[0]["head.bias"]

Numbers of examples do not count in any rule against hostile sites: a site could claim as many as it likes. Memory is bounded as
:mod:`fedrelease.strategies.chunks` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from fedrelease.strategies.chunks import by_coordinate
from fedrelease.strategies.contract import Strategy, check_enough
from fedrelease.strategies.ranges import count_of, trimmed
from fedrelease.update import State, Update

__all__ = ["Median", "TrimmedMean", "in_order", "middle_of"]


def in_order(rows: Tensor) -> Tensor:
    """Each column of ``[sites, coordinates]`` sorted upwards: by numpy, which sorts float64 several times as quickly as torch."""
    return torch.from_numpy(numpy.sort(rows.numpy(), axis=0))


def middle_of(ordered: Tensor) -> Tensor:
    """The median of each column of ``[sites, coordinates]`` that is sorted down its columns: of two middle values, their mean."""
    sites = len(ordered)
    return (ordered[(sites - 1) // 2] + ordered[sites // 2]) / 2


@dataclass(frozen=True, kw_only=True)
class Median(Strategy):
    """The parent plus the middle value of every coordinate's deltas.

    Guarantees: while fewer than half of the sites are hostile, no coordinate leaves the range of the honest sites' values.

    Source: Yin et al. (2018), https://arxiv.org/abs/1803.01498, definition 1. Equal to Flower's ``FedMedian``.
    """

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Sort each coordinate in float64; the result has the parent's dtypes.

        Raises:
            RoundFailed: no update.
        """
        check_enough(self, "median", updates)
        return by_coordinate(parent, updates, lambda rows: middle_of(in_order(rows))), {}


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(Strategy):
    """The parent plus, for every coordinate, the mean of the deltas without the smallest and the largest.

    Args:
        trim: how many are left out at each end: a share of the sites, rounded down, or a number. The default leaves out one of
            four at each end; with fewer than four sites it leaves out none.

    Guarantees: while no more sites are hostile than are left out at one end, no coordinate leaves the range of the honest sites'
    values.

    Source: Yin et al. (2018), https://arxiv.org/abs/1803.01498, definition 2. Equal to Flower's ``FedTrimmedAvg`` with
    ``beta = trim``.
    """

    trim: float | int = 0.25

    def __post_init__(self) -> None:
        """Check the knob."""
        trimmed("trim", self.trim)

    @property
    def least(self) -> int:
        """One site has to be left between the ends."""
        return 1 if isinstance(self.trim, float) else 2 * self.trim + 1

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Sort each coordinate and take the mean of its middle, in float64; the result has the parent's dtypes.

        Raises:
            RoundFailed: too few updates.
        """
        check_enough(self, "trimmed-mean", updates)
        cut, sites = count_of(self.trim, len(updates)), len(updates)
        return by_coordinate(parent, updates, lambda rows: in_order(rows)[cut : sites - cut].mean(0)), {}
