"""Paired non-inferiority without approximation: for sets so small that a normal distribution says too much.

Example::

    exact_p_value(3, 5, 120, margin=0.02)                    # 0.03...: the chance of this or better at d = -2 points, at most

An unconditional test: outcomes are ordered by the score statistic, and the p-value is the largest chance of the tail over all
shares of discordant items that the hypothesis allows.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, gammaln, xlog1py, xlogy

from fedrelease.server.gates.score import score, scores

__all__ = ["exact_bounds", "exact_critical", "exact_p_value"]

COARSE, FINE, PEAKS = 101, 25, 3
RARE = -30.0
"""The logarithm of a chance that changes no sum."""
TIES = 1e-9
SLACK = 1e-5
"""Added to every p-value, for what the largest chance may be above the grid's."""
STEPS = 13
"""Halvings of a bound: 1 / 2^13 is a hundredth of a point."""


def exact_p_value(b: int, c: int, n: int, *, margin: float) -> float:
    """Of the hypothesis ``d <= -margin``; a negative margin asks for superiority.

    Guarantees: the chance that the p-value is at most alpha is at most alpha under the hypothesis, whatever the share of
    discordant items.

    Source: Hsueh, Liu and Chen (2001), https://doi.org/10.1111/j.0006-341X.2001.00478.x, section 2: the exact test that orders
    by the restricted maximum likelihood score; its supremum lies on the border of the hypothesis.
    """
    least = score(b, c, n, -margin)
    return _largest_tail(_first(n, -margin, least), n, margin)


def exact_critical(n: int, *, margin: float, alpha: float) -> float:
    """The least score at which :func:`exact_p_value` is at most ``alpha``; infinite when none is.

    For enumerating what the test decides for every b and c: tails are nested, so one border divides them.
    """
    b, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1))
    possible = b + c <= n
    levels = np.unique(np.round(scores(b[possible], c[possible], n, -margin), 9))
    low, high = 0, len(levels)
    while low < high:
        middle = (low + high) // 2
        tail = _largest_tail(_first(n, -margin, float(levels[middle])), n, margin)
        low, high = (low, middle) if tail <= alpha else (middle + 1, high)
    return float(levels[low]) - TIES if low < len(levels) else float("inf")


def exact_bounds(b: int, c: int, n: int, *, alpha: float, margin: float) -> tuple[float, float]:
    """Bounds of d, each one-sided at ``alpha``, by turning the test around.

    The p-value need not rise evenly with the margin. The search starts at the margin that is asked about, so that the lower
    bound is above ``-margin`` exactly if the test at that margin rejects, and the upper bound below it likewise.
    """
    return _lower(b, c, n, alpha, -margin), -_lower(c, b, n, alpha, margin)


def _lower(b: int, c: int, n: int, alpha: float, at: float) -> float:
    """Where d is neither rejected from below nor kept, on that side of ``at`` on which the test at ``at`` puts it."""
    rejected = exact_p_value(b, c, n, margin=-at) <= alpha
    low, high = (at, (c - b) / n) if rejected else (-1.0, min(at, (c - b) / n))
    for _ in range(STEPS):
        middle = (low + high) / 2
        out = exact_p_value(b, c, n, margin=-middle) <= alpha
        low, high = (middle, high) if out else (low, middle)
    return high if rejected else low


def _first(n: int, difference: float, least: float) -> NDArray[np.int64]:
    """For each b the smallest c whose score is at least ``least``, n - b + 1 where none is: scores rise with c, so by halves."""
    b = np.arange(n + 1)
    low, high = np.zeros(n + 1, dtype=np.int64), n - b + 1
    while (low < high).any():
        middle = (low + high) // 2
        inside = scores(b, np.minimum(middle, n - b), n, difference) >= least - TIES
        open_ = low < high
        low, high = np.where(open_ & ~inside, middle + 1, low), np.where(open_ & inside, middle, high)
    return low


def _largest_tail(first: NDArray[np.int64], n: int, margin: float) -> float:
    """The largest chance of the tail over the nuisance share; a coarse grid, then a fine one around its peaks."""
    widest = (1 - abs(margin)) / 2
    grid = widest * np.linspace(0.0, 1.0, COARSE) ** 2  # finer where discordance is rare
    chances = _tail(first, n, margin, grid)
    best = float(chances.max())
    for place in np.argsort(chances)[-PEAKS:]:
        around = np.linspace(grid[max(place - 1, 0)], grid[min(place + 1, COARSE - 1)], FINE)
        best = max(best, float(_tail(first, n, margin, around).max()))
    return min(1.0, best + SLACK)


def _tail(first: NDArray[np.int64], n: int, margin: float, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """The chance that c is at least ``first[b]``, for each nuisance share in ``grid``: a sum over b of binomials."""
    wrong, right = grid + max(margin, 0.0), grid + max(-margin, 0.0)  # the shares behind b and c
    b = np.arange(n + 1)[first + np.arange(n + 1) <= n][:, None]
    weight = gammaln(n + 1) - gammaln(b + 1) - gammaln(n - b + 1) + xlogy(b, wrong) + xlog1py(n - b, -wrong)
    row, column = np.nonzero(weight > RARE)
    given = np.clip(right / np.maximum(1 - wrong, 1e-300), 0.0, 1.0)[column]
    least, rest = first[b[row, 0]], n - b[row, 0]
    beyond = np.where(least == 0, 1.0, bdtrc(np.maximum(least - 1, 0).astype(np.float64), rest, given))
    chances = np.bincount(column, weights=np.exp(weight[row, column]) * beyond, minlength=len(grid))
    return chances.astype(np.float64)
