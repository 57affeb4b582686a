"""Rules that keep the updates with the nearest neighbours: Krum, Multi-Krum, and Bulyan, which sorts what they keep.

Example::

    MultiKrum(hostile=2).aggregate(parent, updates, {})[0]["head.bias"]

``hostile`` is how many of a round's updates may be hostile. Left out, it is the most that the rule can stand with as many
updates as have come: (n - 3) / 2 for Krum, (n - 3) / 4 for Bulyan, rounded down. Then any three updates or more will do; with
four of them none may be hostile, with five one may be for Krum, with seven one for Bulyan.

All three read every update twice: once for the Gram matrix, in chunks as :mod:`fedrelease.strategies.chunks` says, and once
for the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrelease.strategies.chunks import by_coordinate, gram, moved, squared_distances
from fedrelease.strategies.contract import Strategy, check_enough
from fedrelease.strategies.order_statistics import in_order, middle_of
from fedrelease.strategies.ranges import whole
from fedrelease.update import State, Update

__all__ = ["Bulyan", "Krum", "MultiKrum", "krum_scores"]


def krum_scores(distances: Tensor, hostile: int) -> Tensor:
    """Each update's sum of squared distances to its n - f - 2 nearest others (one at least), ``[sites]``.

    Args:
        distances: squared, float64 ``[sites, sites]``.
        hostile: the f of the paper.

    Source: Blanchard et al. (2017), https://arxiv.org/abs/1703.02757, section 4.
    """
    sites = len(distances)
    others = distances + torch.diag(torch.full((sites,), torch.inf, dtype=distances.dtype))
    return others.sort(1).values[:, : max(1, sites - hostile - 2)].sum(1)


def _best(parent: State, updates: Sequence[Update], hostile: int, keep: int) -> list[Update]:
    """The ``keep`` updates with the lowest scores, in the order of the sites; of equal scores the first site's wins."""
    distances = squared_distances(gram([update.tensors for update in updates], list(parent)))
    best = krum_scores(distances, hostile).argsort(stable=True)[:keep]
    return [updates[place] for place in sorted(best.tolist())]


def _check_hostile(hostile: int | None) -> None:
    if hostile is not None:
        whole("hostile", hostile, least=0)


@dataclass(frozen=True, kw_only=True)
class Krum(Strategy):
    """The state of the one site whose update has the nearest neighbours.

    Args:
        hostile: how many updates may be hostile; left out = as many as the rule can stand.

    Guarantees: with 2 f + 3 updates or more, f of them hostile, an update far from all honest ones is never chosen.

    Source: Blanchard et al. (2017), https://arxiv.org/abs/1703.02757, section 4. Equal to Flower's ``Krum``.
    """

    hostile: int | None = None

    def __post_init__(self) -> None:
        """Check the knob."""
        _check_hostile(self.hostile)

    @property
    def least(self) -> int:
        """The paper's 2 f + 3."""
        return 2 * (self.hostile or 0) + 3

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Compare in float64, then add one delta.

        Raises:
            RoundFailed: too few updates.
        """
        check_enough(self, "krum", updates)
        hostile = (len(updates) - 3) // 2 if self.hostile is None else self.hostile
        return moved(parent, _best(parent, updates, hostile, 1), (1.0,)), {}


@dataclass(frozen=True, kw_only=True)
class MultiKrum(Strategy):
    """The plain mean of the updates with the nearest neighbours.

    Args:
        hostile: how many updates may be hostile; left out = as many as the rule can stand.
        keep: how many updates enter the mean, m in the paper; left out = n - f - 2, the most that it allows.

    Guarantees: as Krum's, for every update in the mean.

    Source: Blanchard et al. (2017), https://arxiv.org/abs/1703.02757, section 6. Equal to Flower's ``MultiKrum`` where sites have
    equal numbers of examples. Flower weights by these; here they do not count, since a hostile site could claim any.
    """

    hostile: int | None = None
    keep: int | None = None

    def __post_init__(self) -> None:
        """Check the knobs."""
        _check_hostile(self.hostile)
        if self.keep is not None:
            whole("keep", self.keep, least=1)

    @property
    def least(self) -> int:
        """The paper's 2 f + 3, and as many as leave ``keep`` of them to choose."""
        hostile = self.hostile or 0
        return max(2 * hostile + 3, (self.keep or 0) + hostile + 2)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Compare and add up in float64; the result has the parent's dtypes.

        Raises:
            RoundFailed: too few updates.
        """
        check_enough(self, "multi-krum", updates)
        sites = len(updates)
        most = (sites - 3) // 2 if self.keep is None else min((sites - 3) // 2, sites - self.keep - 2)
        hostile = most if self.hostile is None else self.hostile
        best = _best(parent, updates, hostile, self.keep or sites - hostile - 2)
        return moved(parent, best, [1 / len(best)] * len(best)), {}


@dataclass(frozen=True, kw_only=True)
class Bulyan(Strategy):
    """Of the n - 2 f updates with the nearest neighbours, for every coordinate the mean of the n - 4 f values nearest the median.

    Args:
        hostile: how many updates may be hostile; left out = as many as the rule can stand.

    Guarantees: with 4 f + 3 updates or more, f of them hostile, no value in a coordinate's mean is farther from the median than
    some honest site's is.

    Source: El Mhamdi et al. (2018), https://arxiv.org/abs/1802.07927, section 4. Equal to Flower's ``Bulyan``, which takes the
    n - 2 f lowest scores at once; the paper scores anew after each one that it takes.
    """

    hostile: int | None = None

    def __post_init__(self) -> None:
        """Check the knob."""
        _check_hostile(self.hostile)

    @property
    def least(self) -> int:
        """The paper's 4 f + 3."""
        return 4 * (self.hostile or 0) + 3

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Compare, sort and add up in float64; the result has the parent's dtypes.

        Raises:
            RoundFailed: too few updates.
        """
        check_enough(self, "bulyan", updates)
        sites = len(updates)
        hostile = (sites - 3) // 4 if self.hostile is None else self.hostile
        best = _best(parent, updates, hostile, sites - 2 * hostile)
        return by_coordinate(parent, best, lambda rows: _mean_near_middle(rows, sites - 4 * hostile)), {}


def _mean_near_middle(rows: Tensor, count: int) -> Tensor:
    """The mean of each column's ``count`` values nearest its median; of two equally near the smaller one counts first.

    In a sorted column they stand side by side: they are the window whose farther end is nearest.
    """
    ordered = in_order(rows)
    middle, last = middle_of(ordered), len(ordered) - count + 1
    begins = torch.maximum(middle - ordered[:last], ordered[count - 1 :] - middle).argmin(0)
    return ordered.gather(0, begins + torch.arange(count)[:, None]).mean(0)
