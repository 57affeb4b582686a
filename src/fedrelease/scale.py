"""The scale that numbers are trained on: counted in halves of their range, from its middle, they lie between -1 and 1.

Example::

    scale = scale_of((-4.0, 4.0), 1.0)
    scale.into(3.0), scale.out(0.75), scale.near             # (0.75, 3.0, 0.25)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedrelease.bounds import positive, require

__all__ = ["Scale", "scale_of"]

NEAR = 0.2
"""Halves of the range: within so much of the true number one counts as right, where nobody says else."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Without a range numbers are as they are.

    Attributes:
        middle: of the range. unit: half its length.
        near: how far from the true number one that counts as right may be, in units.
    """

    middle: float = 0.0
    unit: float = 1.0
    near: float = NEAR

    def into(self, number: float) -> float:
        """A number of the range as one between -1 and 1."""
        return (number - self.middle) / self.unit

    def out(self, part: float) -> float:
        """The number of the range that is ``part`` halves of it from its middle."""
        return self.middle + self.unit * part


def scale_of(ends: Sequence[float] | None, tolerance: float | None) -> Scale:
    """The scale of ``[data] range`` and ``tolerance``.

    Raises:
        ExperimentError: they are no range, or no tolerance within it.
    """
    fits = ends is None or (len(ends) == 2 and all(map(math.isfinite, ends)) and ends[0] < ends[1])
    rule, hint = "is the least and the greatest number, or left out", "such as [-4.0, 4.0]"
    require(fits, "data.range", list(ends or ()), rule, hint)
    if tolerance is not None:
        positive("data.tolerance", tolerance)
    if ends is None:
        return Scale()
    low, high = ends
    unit = high / 2 - low / 2  # each by itself: the whole length may be more than a float holds
    require(
        tolerance is None or tolerance <= unit, "data.tolerance", tolerance, "is at most half of the range's length"
    )
    near = NEAR if tolerance is None else tolerance / unit
    return Scale(middle=low / 2 + high / 2, unit=unit, near=near)
