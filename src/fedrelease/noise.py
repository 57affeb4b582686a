"""How much noise a plan needs.

Example::

    calibrate(epsilon=8.0, delta=1e-5, sample_rate=0.25, steps=12)     # 0.8827

An accountant takes a tenth of a second for an answer, so few are asked for. The search begins where the central limit theorem
points to and goes on along secants, since the logarithm of cost over the logarithm of noise is nearly a line.
"""

import math
from collections import defaultdict
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeAlias

from fedrelease.accounting import Segment, gaussian_delta, spent
from fedrelease.errors import PrivacyError

__all__ = ["Calibrate", "Rest", "calibrate", "stretches"]

TICKS = 10_000
"""Noise multipliers are whole numbers of 1/TICKS, so that one that is written down is the one that was looked at."""
LEAST, MOST = TICKS // 64, 65_536 * TICKS
CLOSE, SLOWLY = 0.998, 0.8


Rest: TypeAlias = tuple[tuple[float, int], ...]
"""Other stretches of a plan, each with a sampling rate of its own: ``((sample_rate, steps), ...)``."""


class Calibrate(Protocol):
    """What :func:`calibrate` does."""

    def __call__(
        self, *, epsilon: float, delta: float, sample_rate: float, steps: int, accountant: str, rest: Rest = ()
    ) -> float:
        """A noise multiplier."""


class _Tried(NamedTuple):
    """A noise multiplier and what it costs."""

    noise: float
    cost: float


@lru_cache(maxsize=256)
def calibrate(
    *, epsilon: float, delta: float, sample_rate: float, steps: int, accountant: str = "prv", rest: Rest = ()
) -> float:
    """A noise multiplier with which ``steps`` steps, and all steps of ``rest``, together cost at most ``epsilon`` at ``delta``.

    Guarantees: the cost of the number returned was asked of :func:`spent` itself. It is at least 99.8 % of ``epsilon``, unless
    1e-4 less noise costs too much already. It does not matter which stretch of a plan is named first: all get the same number.

    Raises:
        PrivacyError: no noise multiplier between 1/64 and 65,536 has that cost.
    """
    return _calibrated(epsilon, delta, stretches(sample_rate, steps, rest), accountant)


def stretches(sample_rate: float, steps: int, rest: Rest = ()) -> Rest:
    """All stretches of a plan in one order: those of one sampling rate as one, rates rising."""
    found: dict[float, int] = defaultdict(int)
    for rate, count in ((sample_rate, steps), *rest):
        found[rate] += count
    return tuple(sorted((rate, count) for rate, count in found.items() if count))


def _calibrated(epsilon: float, delta: float, plan: Rest, accountant: str) -> float:
    """The search. ``plan``: sampling rate and steps of each stretch."""
    low, high = LEAST, MOST  # the first is taken to cost too much and the second not to; neither is ever returned
    tried: list[_Tried] = []
    while high - low > 1:
        ticks = _between(low, high, _guess(tried, epsilon, delta, plan))
        noise = ticks / TICKS
        history = [Segment(noise, sample_rate, steps) for sample_rate, steps in plan]
        cost = spent(history, delta=delta, accountant=accountant)
        low, high = (ticks, high) if cost > epsilon else (low, ticks)
        if CLOSE * epsilon <= cost <= epsilon:
            return noise
        tried.append(_Tried(noise, cost))
    _check_found(low, high, epsilon, sum(steps for _, steps in plan))
    return high / TICKS


def _between(low: int, high: int, guess: float) -> int:
    """``guess`` in ticks, rounded up, where that is between the bounds; else the middle of their logarithms."""
    ticks = math.ceil(guess * TICKS)
    return ticks if low < ticks < high else max(low + 1, math.isqrt(low * high))


def _guess(tried: list[_Tried], epsilon: float, delta: float, plan: Rest) -> float:
    """The next noise multiplier to try. It sinks slowly: what far too little noise costs takes gigabytes to work out."""
    if not tried:
        return _central_limit(epsilon, delta, plan)
    last, floor = tried[-1], SLOWLY * min(one.noise for one in tried)
    if len(tried) == 1:  # one answer tells how far off the central limit is
        wanted = epsilon**2 / max(last.cost, 1e-6 * epsilon)
        return max(floor, _central_limit(wanted, delta, plan))
    return max(floor, _secant(tried[-2], last, epsilon * (1 + CLOSE) / 2))


def _secant(first: _Tried, second: _Tried, target: float) -> float:
    """Where the line through the logarithms of both meets ``target``; 0 where there is no such line."""
    if not 0 < min(first.cost, second.cost) < max(first.cost, second.cost) < math.inf:
        return 0.0
    share = math.log(target / second.cost) / math.log(first.cost / second.cost)
    return second.noise * math.exp(min(20.0, share * math.log(first.noise / second.noise)))


def _central_limit(epsilon: float, delta: float, plan: Rest) -> float:
    """Noise that costs about ``epsilon``: exact without sampling, else as if there were very many steps.

    Source: Bu et al. (2020), https://arxiv.org/abs/1911.11607, for Poisson sampling: mu^2 = rate^2 steps (exp(1 / noise^2) - 1),
    added up over stretches.
    """
    from scipy.optimize import brentq

    mu = math.exp(
        brentq(lambda log_mu: gaussian_delta(math.exp(log_mu), min(epsilon, 1e9)) - delta, -30.0, 15.0, xtol=1e-6)
    )
    if all(rate == 1.0 for rate, _ in plan):
        return math.sqrt(sum(steps for _, steps in plan)) / mu
    return 1 / math.sqrt(math.log1p(mu**2 / sum(rate**2 * steps for rate, steps in plan)))


def _check_found(low: int, high: int, epsilon: float, steps: int) -> None:
    if low == LEAST or high == MOST:
        raise PrivacyError(
            "no noise fits this epsilon",
            value=epsilon,
            rule=f"a noise multiplier between 1/64 and 65536 for {steps} steps",
            hint="choose an epsilon between 0.01 and 100",
        )
