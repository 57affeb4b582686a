"""Paired statistics for two releases on the same items: is the candidate worse by more than a margin?

Of n items, ``b`` were right before and are wrong now, ``c`` the other way round; the rest are alike. The difference of the two
accuracies is ``d = (c - b) / n``.

Example::

    paired = compare(b=9, c=11, n=1000, margin=0.02, alpha=0.05)
    paired.state, paired.low, paired.high                    # ('pass', -0.0053..., 0.0096...)
    n_needed(discordance=0.05, margin=0.01)                  # 3092

All bounds are one-sided at ``alpha``, so that both together are an interval at ``1 - 2 alpha``.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from scipy import stats
from scipy.optimize import brentq

from fedrelease.server.gates.exact import exact_bounds, exact_p_value
from fedrelease.server.gates.score import score

__all__ = ["Paired", "clopper_pearson", "compare", "mcnemar_p", "n_needed", "n_share", "tango_interval"]

EXACT_BELOW = 300
"""Items under which the test is exact: there the score test's true error may lie above its level."""
POWER = 0.8
MOST_NEEDED = 10_000_000
TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What b, c and n say about a margin.

    Attributes:
        state: ``pass`` (not worse by the margin), ``fail`` (worse by more than it), or ``inconclusive``.
        low, high: one-sided bounds of d.
        method: ``tango`` or ``exact``.
        p_worse: of the hypothesis that d <= -margin; small = it is not.
        mcnemar: exact p of b = c; reported, never the rule.
        needed: items that would pass an equal model with 80 % power at this discordance; None when decided.
    """

    state: str
    low: float
    high: float
    method: str
    p_worse: float
    mcnemar: float
    needed: int | None


def mcnemar_p(b: int, c: int) -> float:
    """McNemar's test with the binomial distribution, two-sided; 1 when nothing changed.

    It asks whether there is evidence of any difference. Few items give little evidence, so that "not significant" is what one
    gets by testing little: it is no rule for a release.

    Source: McNemar (1947), https://doi.org/10.1007/BF02295996; exact form as in Fay (2010),
    https://doi.org/10.32614/RJ-2010-008, section 4.
    """
    if b + c == 0:
        return 1.0
    return float(min(1.0, 2 * stats.binom.cdf(min(b, c), b + c, 0.5)))


def clopper_pearson(hits: int, n: int, alpha: float) -> tuple[float, float]:
    """Exact bounds of a share, each one-sided at ``alpha``.

    Source: Clopper and Pearson (1934), https://doi.org/10.1093/biomet/26.4.404.
    """
    low = float(stats.beta.ppf(alpha, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(1 - alpha, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def tango_interval(b: int, c: int, n: int, alpha: float) -> tuple[float, float]:
    """The score interval of d, each bound one-sided at ``alpha``: all d that the score test does not reject.

    Source: Tango (1998), https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B, equation 9.
    """
    z, d = float(stats.norm.isf(alpha)), (c - b) / n
    low = -1.0 if score(b, c, n, -1.0) < z else brentq(lambda at: score(b, c, n, at) - z, -1.0, d)
    high = 1.0 if score(b, c, n, 1.0) > -z else brentq(lambda at: score(b, c, n, at) + z, d, 1.0)
    return float(low), float(high)


@lru_cache(maxsize=4096)
def compare(b: int, c: int, n: int, *, margin: float, alpha: float) -> Paired:
    """Paired non-inferiority: ``pass`` if the lower bound of d is above -margin, ``fail`` if the upper one is below it.

    Tango's score test from 300 items on, the exact test that is built on the same statistic under that.

    Guarantees: below 300 items a model that is worse by the margin passes with a chance of at most ``alpha``, and one that is
    better than that fails with at most the same. From 300 items on both are about ``alpha``: 5.3 % instead of 5 has been seen.
    """
    exact = n < EXACT_BELOW
    bounds = exact_bounds(b, c, n, alpha=alpha, margin=margin) if exact else tango_interval(b, c, n, alpha)
    state = "pass" if bounds[0] > -margin else "fail" if bounds[1] < -margin else "inconclusive"
    p_worse = exact_p_value(b, c, n, margin=margin) if exact else float(stats.norm.sf(score(b, c, n, -margin)))
    return Paired(
        state=state,
        low=bounds[0],
        high=bounds[1],
        method="exact" if exact else "tango",
        p_worse=p_worse,
        mcnemar=mcnemar_p(b, c),
        needed=_would_decide(b, c, n, margin, alpha) if state == "inconclusive" else None,
    )


def _would_decide(b: int, c: int, n: int, margin: float, alpha: float) -> int | None:
    """For an equal model; when there are as many already, then for the difference that was seen. Half an item is added."""
    discordance = (b + c + 0.5) / (n + 1)
    equal = n_needed(discordance, margin, alpha=alpha)
    if equal is None or equal > n:
        return equal
    seen = n_needed(discordance, margin, (c - b) / n, alpha=alpha)
    return seen if seen is not None and seen > n else None


def n_needed(discordance: float, margin: float, difference: float = 0.0, *, alpha: float = 0.05) -> int | None:
    """Items with which a true ``difference`` is told from ``-margin`` with 80 % power; None for over ten million.

    ``n = (z_alpha + z_power)^2 (discordance - difference^2) / (difference + margin)^2``.

    Args:
        discordance: share of items on which the two differ, (b + c) / n.

    Source: Liu, Hsueh, Hsieh and Chen (2002), https://doi.org/10.1002/sim.1012, the normal approximation of section 3.
    """
    distance = difference + margin
    if abs(distance) < TINY:
        return None
    spread = max(discordance - difference**2, 0.0)
    z = float(stats.norm.isf(alpha) + stats.norm.ppf(POWER))
    needed = math.ceil(z * z * spread / (distance * distance) - 1e-9)
    return None if needed > MOST_NEEDED else max(1, needed)


def n_share(share: float, most: float, n: int, *, alpha: float = 0.05) -> int | None:
    """Items with which a true ``share`` is told from ``most`` with 80 % power; None where they are alike.

    ``n = (z_alpha + z_power)^2 p (1 - p) / (p - most)^2``, at least one more than the ``n`` that did not decide;
    None for over ten million.

    Source: Fleiss, Levin and Paik (2003), Statistical Methods for Rates and Proportions, section 2.5.
    """
    if abs(share - most) < TINY:
        return None
    z = float(stats.norm.isf(alpha) + stats.norm.ppf(POWER))
    widest = max(share * (1 - share), most * (1 - most))
    needed = max(n + 1, math.ceil(z * z * widest / (share - most) ** 2))
    return None if needed > MOST_NEEDED else needed
