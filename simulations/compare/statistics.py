"""Whether a difference is more than luck: paired tests over seeds, intervals, corrections, effect sizes, power.

Example::

    test = paired_test([0.81, 0.83, 0.82], [0.78, 0.81, 0.80])
    test.difference, test.interval, test.p_value                # 0.0233..., (0.0090..., 0.0376...), 0.0198...
    holm([0.01, 0.04, 0.03])                                    # (0.03, 0.06, 0.06)

A seed is the unit: all variants of a seed share its split, first adapter and cohorts, so differences are taken seed by seed.
Sites of one run are not independent of each other; where they are used, whole seeds are drawn again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

__all__ = [
    "Paired",
    "cluster_interval",
    "hedges_g",
    "holm",
    "mean_interval",
    "paired_test",
    "seeds_needed",
]

LEVEL = 0.95
LEAST_SEEDS = 3
"""With two, the interval is over six times as wide as with three and tells nothing."""
DRAWS = 10_000
POWER = 0.8
MOST_SEEDS = 100
TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What two variants' differences by seed say.

    Attributes:
        seeds: how many pairs.
        difference: mean of first minus second.
        interval: of the mean, at ``LEVEL``; ``None`` with fewer than ``LEAST_SEEDS`` seeds, or without spread.
        p_value: two-sided, not corrected; ``None`` with fewer than ``LEAST_SEEDS`` seeds.
        effect: Hedges' g of the paired differences; ``None`` where they have no spread or are too few.
    """

    seeds: int
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    effect: float | None


def mean_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Student's interval of the mean; ``None`` with fewer than ``LEAST_SEEDS`` values.

    Source: Student (1908), https://doi.org/10.1093/biomet/6.1.1: mean ± t(n - 1) s / sqrt(n).
    """
    if len(values) < LEAST_SEEDS:
        return None
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * _deviation(values) / math.sqrt(len(values))
    middle = math.fsum(values) / len(values)
    return middle - half, middle + half


def _deviation(values: Sequence[float]) -> float:
    """The sample's standard deviation; 0 where only rounding differs."""
    spread = float(np.std(np.asarray(values, dtype=np.float64), ddof=1))
    return 0.0 if spread <= TINY * max(1.0, *map(abs, values)) else spread


def paired_test(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Student's t over the differences ``first - second``, in the same order of seeds.

    Differences that are all alike have no spread for t: there is no interval, and p is that of flipping signs, 2^(1 - n), or 1
    if all are 0.

    Source: Student (1908); for comparing learners on shared splits Dietterich (1998),
    https://doi.org/10.1162/089976698300017197, section 3, whose warning holds: seeds that share data are not quite
    independent, so that p is somewhat too small.
    """
    differences = [one - other for one, other in zip(first, second, strict=True)]
    count, middle = len(differences), math.fsum(differences) / len(differences)
    if count < LEAST_SEEDS:
        return Paired(seeds=count, difference=middle, interval=None, p_value=None, effect=None)
    spread = _deviation(differences)
    if spread == 0:
        p_value = 1.0 if abs(middle) <= TINY else 2.0 ** (1 - count)
        return Paired(seeds=count, difference=middle, interval=None, p_value=p_value, effect=None)
    p_value = 2 * float(stats.t.sf(abs(middle) / spread * math.sqrt(count), count - 1))
    interval = mean_interval(differences)
    return Paired(seeds=count, difference=middle, interval=interval, p_value=p_value, effect=hedges_g(differences))


def hedges_g(differences: Sequence[float]) -> float | None:
    """The mean difference in units of the differences' own spread (Cohen's d_z), corrected for few seeds.

    With few values ``d`` is too large on average; ``J = gamma(m / 2) / (sqrt(m / 2) gamma((m - 1) / 2))`` with ``m = n - 1``
    mends that. ``None`` where there is no spread, or with fewer than ``LEAST_SEEDS`` values.

    Source: Cohen (1988), section 2.3.5; Hedges (1981), https://doi.org/10.3102/10769986006002107, equation 6e.
    """
    spread = _deviation(differences) if len(differences) >= LEAST_SEEDS else 0.0
    if spread == 0:
        return None
    freedom = len(differences) - 1
    logarithm = special.gammaln(freedom / 2) - special.gammaln((freedom - 1) / 2) - math.log(freedom / 2) / 2
    return math.fsum(differences) / len(differences) / spread * math.exp(float(logarithm))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Each p-value corrected for the family: the chance of any false alarm among all of them stays below the level.

    Sorted upwards, the k-th of m is multiplied by ``m - k + 1``; none is smaller than the one before, nor above 1.

    Source: Holm (1979), https://www.jstor.org/stable/4615733, section 2 (as adjusted p-values).
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return tuple(corrected)


def cluster_interval(clusters: Sequence[Sequence[float]], level: float = LEVEL) -> tuple[float, float] | None:
    """The bootstrap's percentile interval of the mean of all values, drawing whole clusters (seeds) again.

    For differences by seed and site, where seeds may have other sites, or other numbers of them. The draws are always the
    same: equal clusters give equal intervals. With few clusters it is too narrow, so it stands beside Student's and decides
    nothing; ``None`` with fewer than ``LEAST_SEEDS`` clusters.

    Source: Davison and Hinkley (1997), Bootstrap Methods and their Application, section 3.8 (whole clusters); Cameron,
    Gelbach and Miller (2008), https://doi.org/10.1162/rest.90.3.414, on few clusters.
    """
    if len(clusters) < LEAST_SEEDS:
        return None
    sums = np.array([math.fsum(cluster) for cluster in clusters])
    counts = np.array([len(cluster) for cluster in clusters])
    drawn = np.random.default_rng(0).integers(len(clusters), size=(DRAWS, len(clusters)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def seeds_needed(differences: Sequence[float], *, level: float, power: float = POWER) -> int | None:
    """How many seeds would show a difference of this size and spread with probability ``power``; ``None`` for over 100.

    Args:
        differences: by seed, as observed; the true effect is taken to be the observed one.
        level: that the p-value has to be below, after correction; 0.05 / m for the first step of Holm's among m.

    Source: Cohen (1988), section 2.4, with the noncentral t: ``P(T > t)`` for ``T ~ t(n - 1, d sqrt(n))``.
    """
    spread = _deviation(differences)
    effect = abs(math.fsum(differences) / len(differences))
    if effect <= TINY:
        return None
    if spread == 0:  # where p is 2^(1 - n)
        return math.ceil(1 - math.log2(level))
    for count in range(LEAST_SEEDS, MOST_SEEDS + 1):
        if _power(effect / spread, count, level) >= power:
            return count
    return None


def _power(effect: float, count: int, level: float) -> float:
    """The chance that ``count`` seeds show the effect at this level; the wrong tail is left out, it adds nothing."""
    critical = stats.t.ppf(1 - level / 2, count - 1)
    return float(stats.nct.sf(critical, count - 1, effect * math.sqrt(count)))
