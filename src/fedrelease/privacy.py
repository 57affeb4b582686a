"""The privacy plan of one site, the receipt it gives, and what a history of noisy steps has cost.

Sampling, clipping, noise and accounting are built from one :class:`PrivacyPlan`, so that none of them can be changed alone.

Example::

    plan = plan_privacy(Privacy(epsilon=8.0), rows=2800, batch_size=280, steps_per_round=10, rounds=5)
    plan.noise_multiplier                                    # about 1, so that all 50 steps together cost epsilon 8
    spent([Segment(plan.noise_multiplier, plan.sample_rate, 50)], delta=1e-5)   # <= 8.0

The neighbouring relation is add-or-remove-one example. The number of training rows of a site is treated as public:
the sampling rate is ``batch_size / rows``.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from fedrelease.errors import PrivacyError
from fedrelease.experiment import Privacy

__all__ = ["Calibrate", "PrivacyPlan", "Receipt", "Segment", "calibrate", "plan_privacy", "spent"]


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


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """Everything that private training of one site needs, fixed before the first step. Every field is public.

    Guarantees:
        ``rounds * steps_per_round`` steps of Poisson sampling at ``sample_rate``, per-example clipping to ``clip`` and
        Gaussian noise of standard deviation ``noise_multiplier * clip`` on the *sum* are ``(epsilon, delta)``
        differentially private for one example added or removed.

    Source: Abadi et al. (2016), https://arxiv.org/abs/1607.00133, algorithm 1; Gopi et al. (2021),
    https://arxiv.org/abs/2106.02848 (the PRV accountant).
    """

    unit: str
    epsilon: float
    delta: float
    clip: float
    accountant: str
    sample_rate: float
    batch_size: float
    steps_per_round: int
    rounds: int
    noise_multiplier: float

    def segment(self) -> Segment:
        """The event of one round of training."""
        return Segment(self.noise_multiplier, self.sample_rate, self.steps_per_round)


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What one site says about the privacy of one answer. Every field is public.

    Attributes:
        pool: the rows it is about: ``train`` or ``holdout``; no row is in both.
        charge: what identifies the charge in the site's ledger; the same charge is never taken twice.
        epsilon_round: what this round alone costs. Rounds do not add up: see ``epsilon_total``.
        epsilon_total: what everything in the site's ledger has cost until now, this round included.
        noise: ``"seeded"`` in a simulation that must repeat bit for bit, ``"secure"`` where it protects people.
    """

    site: str
    charge: str
    pool: str
    unit: str
    clip: float
    noise_multiplier: float
    sample_rate: float
    steps: int
    accountant: str
    delta: float
    epsilon_round: float
    epsilon_total: float
    noise: str


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
    from scipy.stats import norm

    def excess(epsilon: float) -> float:
        first = norm.logcdf(mu / 2 - epsilon / mu)
        second = epsilon + norm.logcdf(-mu / 2 - epsilon / mu)
        return float(math.exp(first) - math.exp(min(second, 0.0))) - delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-9)) + 1e-9


def calibrate(*, epsilon: float, delta: float, sample_rate: float, steps: int, accountant: str = "prv") -> float:
    """A noise multiplier, within 0.1 % of the smallest, with which ``steps`` steps cost at most ``epsilon`` at ``delta``.

    Found over :func:`spent` itself, so that what is calibrated and what is reported cannot disagree. Cost over noise is close
    to a power law, so the root is looked for between logarithms, a little below the target.

    Raises:
        PrivacyError: no noise multiplier between 1/64 and 65,536 has that cost.
    """
    from scipy.optimize import brentq

    def above(log_noise: float) -> float:
        cost = spent([Segment(math.exp(log_noise), sample_rate, steps)], delta=delta, accountant=accountant)
        return math.log(max(cost, 1e-12) / (epsilon * 0.9995))

    low = high = 0.0
    while above(high) > 0:
        low, high = high, high + 0.5
        _check_found(high, epsilon, steps)
    while low >= high and above(low := low - 0.25) <= 0:
        high = low
        _check_found(low, epsilon, steps)
    root = float(brentq(above, low, high, xtol=2e-4))
    return math.ceil(math.exp(root) * 10_000) / 10_000


def _check_found(log_noise: float, epsilon: float, steps: int) -> None:
    if not math.log(1 / 64) < log_noise < math.log(65_536):
        raise PrivacyError(
            "no noise fits this epsilon",
            value=epsilon,
            rule=f"a noise multiplier between 1/64 and 65536 for {steps} steps",
            hint="choose an epsilon between 0.01 and 100",
        )


class Calibrate(Protocol):
    """What :func:`calibrate` does."""

    def __call__(self, *, epsilon: float, delta: float, sample_rate: float, steps: int, accountant: str) -> float:
        """A noise multiplier."""


def plan_privacy(
    privacy: Privacy,
    *,
    rows: int,
    batch_size: int,
    steps_per_round: int,
    rounds: int,
    calibrated: Calibrate = calibrate,
) -> PrivacyPlan | None:
    """The plan of a site with ``rows`` training rows for ``rounds`` rounds; ``None`` when the unit is ``"none"``.

    ``calibrated`` is :func:`calibrate`, or something with a memory that answers the same.
    """
    if privacy.unit == "none":
        return None
    sample_rate = min(1.0, batch_size / rows)
    noise = calibrated(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        sample_rate=sample_rate,
        steps=steps_per_round * rounds,
        accountant=privacy.accountant,
    )
    return PrivacyPlan(
        unit=privacy.unit,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        clip=privacy.clip,
        accountant=privacy.accountant,
        sample_rate=sample_rate,
        batch_size=sample_rate * rows,
        steps_per_round=steps_per_round,
        rounds=rounds,
        noise_multiplier=noise,
    )
