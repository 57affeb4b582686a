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
from typing import NamedTuple

from fedrelease.errors import PrivacyError
from fedrelease.experiment import Privacy

__all__ = ["PrivacyPlan", "Receipt", "Segment", "calibrate", "plan_privacy", "spent"]


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


def coalesce(history: Iterable[Segment]) -> tuple[Segment, ...]:
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
    return _spent(coalesce(history), delta, accountant)


@lru_cache(maxsize=256)
def _spent(history: tuple[Segment, ...], delta: float, accountant: str) -> float:
    from opacus.accountants import create_accountant

    if not history:
        return 0.0
    if any(segment.noise_multiplier <= 0 for segment in history):
        raise PrivacyError(
            "steps without noise have no epsilon",
            value=history,
            rule="noise_multiplier > 0 in every step",
            hint='set [privacy] unit = "none" to train without a promise',
        )
    book = create_accountant(accountant)
    book.history = [tuple(segment) for segment in history]
    with warnings.catch_warnings():  # only says that a looser bound, used to size a grid, could be tighter
        warnings.filterwarnings("ignore", message="Optimal order is the largest alpha")
        return float(book.get_epsilon(delta=delta))


def calibrate(*, epsilon: float, delta: float, sample_rate: float, steps: int, accountant: str = "prv") -> float:
    """The smallest noise multiplier (to 3 digits) with which ``steps`` steps cost at most ``epsilon`` at ``delta``.

    Found by bisection over :func:`spent`, so that what is calibrated and what is reported cannot disagree.

    Raises:
        PrivacyError: even a noise multiplier of 10,000 costs more.
    """
    low, high = 0.0, 1.0
    while spent([Segment(high, sample_rate, steps)], delta=delta, accountant=accountant) > epsilon:
        low, high = high, high * 2
        if high > 10_000:
            raise PrivacyError("no noise is large enough", value=epsilon, rule=f"epsilon at delta={delta}, {steps} steps")
    while high - low > 0.001 * high:
        middle = (low + high) / 2
        try:
            fits = spent([Segment(middle, sample_rate, steps)], delta=delta, accountant=accountant) <= epsilon
        except (ValueError, RuntimeError, OverflowError):  # accountants give up where the noise is far too small
            fits = False
        low, high = (low, middle) if fits else (middle, high)
    return math.ceil(high * 10_000) / 10_000


def plan_privacy(
    privacy: Privacy, *, rows: int, batch_size: int, steps_per_round: int, rounds: int
) -> PrivacyPlan | None:
    """The plan of a site with ``rows`` training rows for ``rounds`` rounds; ``None`` when the unit is ``"none"``."""
    if privacy.unit == "none":
        return None
    sample_rate = min(1.0, batch_size / rows)
    noise = calibrate(
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
