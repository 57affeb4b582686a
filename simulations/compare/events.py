"""What a comparison tells while it runs, and how long the rest will take.

Example::

    pace = Pace(runs=6)
    pace.after(30.0)                                            # 150.0: five more runs of 30 seconds
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

from fedrelease.server.events import Event
from fedrelease.simulations.compare.plan import Run
from fedrelease.simulations.compare.results import Finished, Trial

__all__ = ["Begun", "Ended", "Pace", "Progress", "Tried"]


@dataclass(frozen=True, kw_only=True)
class Begun:
    """Run ``number`` of ``total`` begins, or goes on; a run with a trial is one of the search."""

    run: Run
    number: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run is over; ``seconds`` that it took now, ``None`` if it was done before; ``left``: seconds for the rest, if known."""

    finished: Finished
    number: int
    total: int
    seconds: float | None
    left: float | None


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A trial of the search is over; as ``Ended``, and ``left`` counts the comparison that follows."""

    trial: Trial
    number: int
    total: int
    seconds: float | None
    left: float | None


Progress: TypeAlias = Callable[[Begun | Ended | Tried | Event], None]


@final
class Pace:
    """What the runs that were made now took, and so what the rest will take; trials and runs of the comparison are alike."""

    def __init__(self, *, runs: int) -> None:
        """``runs``: of the search and the comparison together."""
        self._left, self._took = runs, list[float]()

    def after(self, seconds: float | None) -> float | None:
        """One run is over, in so many seconds or, with ``None``, long ago: seconds for the rest, once any run was made now."""
        self._left -= 1
        if seconds is not None:
            self._took.append(seconds)
        return sum(self._took) / len(self._took) * self._left if self._took else None
