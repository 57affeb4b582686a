"""What a history of noisy steps has cost, in epsilon.

Example::

    spent([Segment(1.0, 0.1, 50)], delta=1e-5)          # 5.16: 50 steps of Poisson sampling at 0.1, noise as large as the clip

The neighbouring relation is add-or-remove-one example.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from fedrelease.errors import PrivacyError

__all__ = ["Segment", "gaussian_delta", "spent"]


class Segment(NamedTuple):
    """A run of equal noisy steps: the event that accountants compose.

    Attributes:
        noise_multiplier: standard deviation of the noise divided by the clipping norm.
        sample_rate: probability with which Poisson sampling takes each example into a step; 1 means all of them.
        steps: how many such steps.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


def _coalesce(history: Iterable[Segment]) -> tuple[Segment, ...]:
    """Join equal events, wherever they stand: composition does not depend on order, and accountants cost per segment."""
    steps: dict[tuple[float, float], int] = defaultdict(int)
    for noise_multiplier, sample_rate, count in history:
        steps[noise_multiplier, sample_rate] += count
    return tuple(Segment(noise, rate, count) for (noise, rate), count in sorted(steps.items()) if count > 0)


def spent(history: Sequence[Segment], *, delta: float, accountant: str = "prv") -> float:
    """The epsilon of a whole history at ``delta``; 0 for an empty one.

    Raises:
        PrivacyError: a segment has no noise, so that no epsilon bounds it.
    """
    return _spent(_coalesce(history), delta, accountant)


@lru_cache(maxsize=4096)
def _spent(history: tuple[Segment, ...], delta: float, accountant: str) -> float:
    if not history:
        return 0.0
    if any(segment.noise_multiplier <= 0 for segment in history):
        raise PrivacyError(
            "steps without noise have no epsilon",
            value=history,
            rule="noise_multiplier > 0 in every step",
            hint='set [privacy] unit = "none" to train without a promise',
        )
    if all(segment.sample_rate == 1.0 for segment in history):
        return _gaussian(math.sqrt(sum(steps / noise**2 for noise, _, steps in history)), delta)
    return _composed(history, delta, accountant)


def _composed(history: tuple[Segment, ...], delta: float, accountant: str) -> float:
    from opacus.accountants import create_accountant

    _remember_bounds()
    book = create_accountant(accountant)
    book.history = [tuple(segment) for segment in history]
    with warnings.catch_warnings():  # numpy and the accountant remark on the tails of their grids, which they handle
        warnings.simplefilter("ignore")
        return float(book.get_epsilon(delta=delta))


@lru_cache(maxsize=1)
def _remember_bounds() -> None:
    """Let Opacus remember the Renyi bounds that size its grid: nearly all of its time goes into working out the same ones again.

    The function is pure, so that no result changes; should a later Opacus not have it, nothing happens.
    """
    from opacus.accountants.analysis import rdp

    bound = getattr(rdp, "_compute_rdp", None)
    if bound is not None:
        rdp._compute_rdp = lru_cache(maxsize=16_384)(bound)


def _gaussian(mu: float, delta: float) -> float:
    """The exact epsilon of Gaussian mechanisms without sampling, ``mu`` = sqrt of the sum of (sensitivity / deviation)^2.

    Source: Balle and Wang (2018), https://arxiv.org/abs/1805.06530, theorem 8; compositions as in Dong et al. (2019),
    https://arxiv.org/abs/1905.02383, corollary 3.3.
    """
    from scipy.optimize import brentq

    def excess(epsilon: float) -> float:
        return gaussian_delta(mu, epsilon) - delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-9)) + 1e-9


def gaussian_delta(mu: float, epsilon: float) -> float:
    """The delta of a Gaussian mechanism at ``epsilon``; ``mu`` and sources as in :func:`spent` without sampling."""
    from scipy.special import log_ndtr

    first, second = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(math.exp(first) - math.exp(min(second, 0.0)))
