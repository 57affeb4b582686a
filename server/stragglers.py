"""When a step of a round stops waiting: a quorum has answered, and the others had several times as long as those took.

Example::

    stragglers = Stragglers(factor=2.0, quorum=3)
    stragglers.begin()                                   # all were asked
    stragglers.answered()                                # each time an answer counts
    stragglers.over()                                    # True: nobody is waited for any more

Who is late then loses this step of this round, and nothing else: it stays admitted, what it spent stays spent, and the next round
asks it again. Pure: it reads a clock, and is told what counts.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import final

__all__ = ["LEAST_S", "Stragglers", "is_late"]

LEAST_S = 10.0
"""So long everybody has: shorter times are those of polls and start-ups, and say nothing about a site."""
_LATE = "late: "


@final
class Stragglers:
    """One step of one round. Its times grow with each answer, so that a slow majority gives the rest more time, never less."""

    def __init__(
        self, *, factor: float, quorum: int, least_s: float = LEAST_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nobody was asked yet.

        Args:
            factor: of the median time of those who have answered. quorum: so many have to, first.
        """
        self._factor, self._quorum, self._least_s, self._clock = factor, quorum, least_s, clock
        self._begun = clock()
        self._took: list[float] = []

    def begin(self) -> None:
        """All were asked just now."""
        self._begun = self._clock()

    def answered(self) -> None:
        """One more answer that counts."""
        self._took.append(self._clock() - self._begun)

    @property
    def median_s(self) -> float | None:
        """Of those who have answered; ``None`` while nobody has."""
        return median(self._took) if self._took else None

    @property
    def allowed_s(self) -> float | None:
        """How long a site may take; ``None`` while the quorum has not answered, or nobody in this run has."""
        if len(self._took) < self._quorum or (middle := self.median_s) is None:
            return None
        return max(self._least_s, self._factor * middle)

    def over(self) -> bool:
        """Whether nobody is waited for any more."""
        allowed_s = self.allowed_s
        return allowed_s is not None and self._clock() - self._begun >= allowed_s

    @property
    def reason(self) -> str:
        """Why a late site's answer does not count; the same text whatever the times were: it stands in the release."""
        return f"{_LATE}the quorum has answered, and {self._factor:g} times its median time was over"


def is_late(reason: str) -> bool:
    """Whether this is why a site was late, in training or at its hold-out."""
    return reason.removeprefix("hold-out: ").startswith(_LATE)
