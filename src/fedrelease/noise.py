"""How much noise a plan needs.

Example::

    calibrate(epsilon=8.0, delta=1e-5, sample_rate=0.25, steps=12)     # 0.883
"""

import math
from typing import Protocol

from fedrelease.accounting import Segment, spent
from fedrelease.errors import PrivacyError

__all__ = ["Calibrate", "calibrate"]


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
