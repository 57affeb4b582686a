"""Bootstrap bounds for what has no counts: a mean difference in loss, a ratio of medians of times.

Example::

    bca_bounds(differences, clusters, alpha=0.05, draws=2000, seed=7)          # (mean, low, high)
    median_ratio(candidate_seconds, stable_seconds, alpha=0.05, draws=2000, seed=7)

All draws follow from the seed, so that a gate that is run again says the same.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["bca_bounds", "median_ratio"]

AT_ONCE = 1_000_000
"""Numbers that are drawn at a time; bounds the memory, and changes no result."""


def bca_bounds(
    differences: NDArray[np.float64], clusters: NDArray[np.int64], *, alpha: float, draws: int, seed: int
) -> tuple[float, float, float]:
    """The mean difference and its bounds, each one-sided at ``alpha``: bias-corrected and accelerated, whole clusters drawn.

    Args:
        differences: ``[n]``, any unit.
        clusters: ``[n]``, a number for each item's cluster; all different when items are independent. With under about ten
            clusters the interval is too narrow.

    Returns:
        Mean, low and high, in the unit of ``differences``; all three alike where no cluster differs.

    Source: Efron (1987), https://doi.org/10.1080/01621459.1987.10478410, section 2 and equation 7.3 (acceleration by the
    jackknife); clusters as in Davison and Hinkley (1997), section 3.8.
    """
    _, code = np.unique(clusters, return_inverse=True)
    sums = np.bincount(code, weights=differences).astype(np.float64)
    counts = np.bincount(code).astype(np.float64)
    mean = float(sums.sum() / counts.sum())
    left_out = (sums.sum() - sums) / np.maximum(counts.sum() - counts, 1)
    apart = left_out.mean() - left_out
    if len(sums) < 2 or float(np.abs(apart).max()) <= 1e-15 * max(1.0, abs(mean)):
        return mean, mean, mean
    drawn = np.sort(_ratios_of_draws(sums, counts, draws, seed))
    bias = float(stats.norm.ppf(_middle_rank(drawn, mean)))
    acceleration = float((apart**3).sum() / (6 * (apart**2).sum() ** 1.5))
    low, high = (float(np.quantile(drawn, _level(z, bias, acceleration))) for z in _both_sides(alpha))
    return mean, low, high


def _both_sides(alpha: float) -> tuple[float, float]:
    z = float(stats.norm.isf(alpha))
    return -z, z


def _level(z: float, bias: float, acceleration: float) -> float:
    """The level of the draws' distribution at which the bound lies: Efron's equation 3.9."""
    moved = bias + z
    return float(stats.norm.cdf(bias + moved / (1 - acceleration * moved)))


def _middle_rank(drawn: NDArray[np.float64], value: float) -> float:
    """The share of draws below the value, ties half; kept off 0 and 1, where the bias would be infinite."""
    below = (np.searchsorted(drawn, value, "left") + np.searchsorted(drawn, value, "right")) / (2 * len(drawn))
    return float(np.clip(below, 0.5 / len(drawn), 1 - 0.5 / len(drawn)))


def _ratios_of_draws(
    sums: NDArray[np.float64], counts: NDArray[np.float64], draws: int, seed: int
) -> NDArray[np.float64]:
    """The mean over items of each draw of clusters with replacement, ``[draws]``."""
    found = [sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1) for drawn in _draws(len(sums), draws, seed)]
    return np.concatenate(found)


def _draws(size: int, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    generator, step = np.random.default_rng(seed), max(1, AT_ONCE // size)
    for start in range(0, draws, step):
        yield generator.integers(size, size=(min(step, draws - start), size))


def median_ratio(
    candidate: NDArray[np.float64], other: NDArray[np.float64], *, alpha: float, draws: int, seed: int
) -> tuple[float, float, float]:
    """The ratio of the two medians and its percentile bounds, each one-sided at ``alpha``.

    Args:
        candidate, other: seconds ``[k]``, taken in turns: the i-th of both are drawn together, so that a machine that slows
            down slows down both.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 13.3 (percentile interval).
    """
    ratio = float(np.median(candidate) / np.median(other))
    found = [
        np.median(candidate[drawn], axis=1) / np.median(other[drawn], axis=1)
        for drawn in _draws(len(candidate), draws, seed)
    ]
    low, high = np.quantile(np.concatenate(found), [alpha, 1 - alpha])
    return ratio, float(low), float(high)
