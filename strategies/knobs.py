"""What knobs of several rules have in common: how a number of sites is written, and how a value is refused.

Example::

    count_of(0.25, 10)                      # 2 of 10 sites
    check_share("trim", 0.25)               # ExperimentError where it is 0.5 or more
"""

import math

from fedrelease.bounds import require

__all__ = ["check_count", "check_positive", "check_share", "count_of"]


def check_count(knob: str, value: object, *, least: int) -> None:
    """Refuse what is no whole number of at least ``least``.

    Raises:
        ExperimentError: it is not.
    """
    fits = type(value) is int and value >= least
    require(fits, knob, value, f"is a whole number of at least {least}")


def check_positive(knob: str, value: object) -> None:
    """Refuse what is no finite number above 0.

    Raises:
        ExperimentError: it is not.
    """
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    require(fits, knob, value, "is a number above 0")


def check_share(knob: str, value: object) -> None:
    """Refuse what is neither a share of the sites (a float, at least 0 and below 0.5) nor a number of them (an int).

    Raises:
        ExperimentError: it is neither.
    """
    fits = (type(value) is float and 0 <= value < 0.5) or (type(value) is int and value >= 0)
    require(fits, knob, value, "is a share of the sites below 0.5, or a whole number of them")


def count_of(share: float | int, sites: int) -> int:
    """How many of ``sites`` a share (rounded down) or a number means."""
    return int(share * sites) if isinstance(share, float) else share
