"""The privacy plan of one site, and the receipt that it gives.

Sampling, clipping, noise and accounting are built from one :class:`PrivacyPlan`, so that none of them can be changed alone.

Example::

    plan = plan_privacy(Privacy(epsilon=8.0), rows=2800, batch_size=280, steps_per_round=10, rounds=5)
    plan.noise_multiplier                                    # about 1, so that all 50 steps together cost epsilon 8

The neighbouring relation is add-or-remove-one example. The number of training rows of a site is treated as public:
the sampling rate is ``batch_size / rows``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fedrelease.accounting import Segment
from fedrelease.experiment import Privacy
from fedrelease.noise import Calibrate, Rest, calibrate

__all__ = ["PrivacyPlan", "Receipt", "Stretch", "plan_privacy"]


class Stretch(NamedTuple):
    """Rounds of the plan in which a site has the same rows to train on; ``steps`` in each of these rounds."""

    rows: int
    steps: int
    rounds: int


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """Everything that private training of one site needs, fixed before the first step. Every field is public.

    Guarantees:
        ``rounds * steps_per_round`` steps of Poisson sampling at ``sample_rate``, per-example clipping to ``clip`` and
        Gaussian noise of standard deviation ``noise_multiplier * clip`` on the *sum* are ``(epsilon, delta)``
        differentially private for one example added or removed. With a ``rest``, stretches of the plan whose rounds have
        other rows, that holds for these steps and those of the rest together, all with the same noise.

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
    rest: Rest = ()

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


def plan_privacy(
    privacy: Privacy,
    *,
    rows: int,
    batch_size: int,
    steps_per_round: int,
    rounds: int,
    others: Sequence[Stretch] = (),
    calibrated: Calibrate = calibrate,
) -> PrivacyPlan | None:
    """The plan of a site with ``rows`` training rows for ``rounds`` rounds; ``None`` when the unit is ``"none"``.

    ``others`` are the stretches of the plan in which the site has other rows; those without any cost nothing. A row that is
    there in all of them pays for all of them, which is what the noise is for. ``calibrated`` is :func:`calibrate`, or something
    with a memory that answers the same.
    """
    if privacy.unit == "none":
        return None
    sample_rate = min(1.0, batch_size / rows)
    rest = tuple((min(1.0, batch_size / other.rows), other.steps * other.rounds) for other in others if other.rows)
    noise = calibrated(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        sample_rate=sample_rate,
        steps=steps_per_round * rounds,
        accountant=privacy.accountant,
        rest=rest,
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
        rest=rest,
    )
