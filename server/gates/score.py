"""The score statistic of the difference of two paired proportions.

Example::

    score(9, 11, 1000, -0.02)                                # 3.95...: standard errors above a difference of -2 points
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["score", "scores"]


def score(b: int, c: int, n: int, difference: float) -> float:
    """How many standard errors d = (c - b) / n lies above ``difference``; see :func:`scores`."""
    return float(scores(np.array([b]), np.array([c]), n, difference)[0])


def scores(b: NDArray[np.integer], c: NDArray[np.integer], n: int, difference: float) -> NDArray[np.float64]:
    """``(c - b - n D) / sqrt(n (2 q + D (1 - D)))`` where q is b's most likely share when the true difference is D.

    Args:
        b: items that were right and are wrong, any shape.
        c: items that were wrong and are right, same shape.
        difference: D, between -1 and 1.

    Returns:
        Same shape; infinite where the true difference cannot be D, 0 where the data say D and nothing else.

    Source: Tango (1998), https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B, equations 5 to 7.
    """
    wrong, right = b.astype(np.float64), c.astype(np.float64)
    linear = -wrong - right + (2 * n - right + wrong) * difference
    constant = -wrong * difference * (1 - difference)
    root = np.sqrt(np.maximum(linear * linear - 8 * n * constant, 0.0))
    share = np.maximum((root - linear) / (4 * n), max(0.0, -difference))
    above = right - wrong - n * difference
    variance = n * (2 * share + difference * (1 - difference))
    flat = variance <= 1e-12 * n
    plain = above / np.sqrt(np.where(flat, 1.0, variance))
    return np.where(flat, np.where(np.abs(above) < 1e-9, 0.0, np.copysign(np.inf, above)), plain)
