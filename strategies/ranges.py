"""The ranges that numbers among knobs lie in. Knobs come from a file, so that where a number is wanted there may be a text.

Example::

    positive("lr", self.lr)                                   # ExperimentError: phase.strategy.lr is out of bounds
"""

import math

from fedrelease.bounds import require

__all__ = ["amount", "count_of", "not_negative", "part", "positive", "share", "trimmed", "whole"]


def positive(knob: str, value: object) -> None:
    """Go on if ``value`` is a finite number above 0."""
    _check(_number(value) > 0, knob, value, "is a number above 0")


def not_negative(knob: str, value: object) -> None:
    """Go on if ``value`` is a finite number of at least 0."""
    _check(_number(value) >= 0, knob, value, "is a number of at least 0")


def part(knob: str, value: object) -> None:
    """Go on if ``value`` is a number of at least 0 and below 1: what is dropped, or remembered, in part."""
    _check(0 <= _number(value) < 1, knob, value, "is a number of at least 0 and below 1")


def share(knob: str, value: object) -> None:
    """Go on if ``value`` is a number above 0 and at most 1: 1 is all."""
    _check(0 < _number(value) <= 1, knob, value, "is a number above 0 and at most 1")


def whole(knob: str, value: object, *, least: int = 0) -> None:
    """Go on if ``value`` is a whole number of at least ``least``."""
    _check(type(value) is int and value >= least, knob, value, f"is a whole number of at least {least}")


def amount(knob: str, value: object) -> None:
    """Go on if ``value`` is a share of the sites (a float above 0, at most 1) or a number of them (an int, at least 1)."""
    fits = value >= 1 if type(value) is int else type(value) is float and 0 < value <= 1
    _check(fits, knob, value, "is a share of the sites above 0 and at most 1, or a whole number of them")


def trimmed(knob: str, value: object) -> None:
    """Go on if ``value`` is a share of the sites (a float, at least 0 and below 0.5) or a number of them (an int)."""
    fits = value >= 0 if type(value) is int else type(value) is float and 0 <= value < 0.5
    _check(fits, knob, value, "is a share of the sites below 0.5, or a whole number of them")


def count_of(share: float | int, sites: int) -> int:
    """How many of ``sites`` a share (rounded down) or a number means."""
    return int(share * sites) if isinstance(share, float) else share


def _number(value: object) -> float:
    """NaN, which is in no range, for everything that is no finite number; ``true`` is none."""
    return value if isinstance(value, int | float) and type(value) is not bool and math.isfinite(value) else math.nan


def _check(holds: bool, knob: str, value: object, rule: str) -> None:
    require(holds, f"phase.strategy.{knob}", value, rule)
