"""Bounds of an experiment's keys, said alike everywhere.

Example::

    positive("training.lr", 1e-3)
    one_of("privacy.unit", "row", ("example", "none"))         # ExperimentError: privacy.unit is out of bounds
"""

import math

from fedrelease.errors import ExperimentError

__all__ = ["amount", "one_of", "positive", "require"]


def require(holds: bool, key: str, value: object, rule: str, hint: str = "") -> None:
    """Go on if ``holds``.

    Raises:
        ExperimentError: it does not; ``rule`` is the rest of a sentence that begins with the key.
    """
    if not holds:
        raise ExperimentError(
            f"{key} is out of bounds", value=value, rule=f"{key} {rule}", hint=hint or "mend that key"
        )


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Go on if ``value`` is one of ``allowed``."""
    require(value in allowed, key, value, f"is one of {', '.join(allowed)}")


def positive(key: str, value: float) -> None:
    """Go on if ``value`` is a number above 0."""
    require(math.isfinite(value) and value > 0, key, value, "is a number above 0")


def amount(key: str, value: float | int, *, least: int) -> None:
    """Go on if ``value`` is a share of something (a float) or a number of its parts (an int of at least ``least``)."""
    share = isinstance(value, float)
    above = value >= 0 if least == 0 else value > 0
    fits = above and value <= 1 if share else value >= least
    low = "of at least 0" if least == 0 else "above 0"
    require(fits, key, value, f"is a share {low} and at most 1 (1.0 = all), or a whole number of sites")
