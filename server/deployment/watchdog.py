"""When a run of Flower's goes on no more although nothing ended: what is seen of it, and how long that may last.

Example::

    watchdog = Watchdog(Patience(progress_s=3600 + MARGIN_S))
    watchdog.look(Sight(state="running", application=True, events=12))          # None, or why it is stuck

Pure: it is told what is seen, and reads a clock.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

__all__ = ["MARGIN_S", "Patience", "Sight", "Watchdog"]

MARGIN_S = 600.0
"""Beyond a round's deadline: for gates, for a large release, for a slow disk."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long each may last, in seconds.

    Attributes:
        progress_s: a run without an event; a step of a round ends at its deadline whatever sites do.
        pending_s: a run that has not begun. By then it never will: the SuperLink's tasks are stuck.
        application_s: a run without a process of a ServerApp. Flower itself needs about a minute to notice.
        answer_s: a SuperLink that runs and does not answer.
    """

    progress_s: float
    pending_s: float = 90.0
    application_s: float = 30.0
    answer_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One look at a run.

    Attributes:
        state: ``pending``, ``running``, or another word of Flower's; ``None`` where the SuperLink does not answer.
        application: whether a process of the ServerApp is there. events: how many lines it has written.
    """

    state: str | None
    application: bool
    events: int


@final
class Watchdog:
    """Watches one run from its start."""

    def __init__(self, patience: Patience, *, clock: Callable[[], float] = time.monotonic) -> None:
        """It begins now."""
        self._patience, self._clock = patience, clock
        now = clock()
        self._answered = self._progressed = self._had_application = self._begun = now
        self._events = 0

    def look(self, sight: Sight) -> str | None:
        """Why the run is stuck; ``None`` while it may still go on."""
        now, patience = self._clock(), self._patience
        if sight.events != self._events:
            self._events, self._progressed = sight.events, now
        if sight.state is not None:
            self._answered = now
        if sight.application or sight.state != "running":
            self._had_application = now
        if sight.state is None:
            return _over(now - self._answered, patience.answer_s, "the SuperLink does not answer")
        if sight.state != "running":
            return _over(now - self._begun, patience.pending_s, f"the run is {sight.state}")
        return _over(now - self._had_application, patience.application_s, "no ServerApp runs it") or _over(
            now - self._progressed, patience.progress_s, "nothing happened"
        )


def _over(lasted_s: float, allowed_s: float, what: str) -> str | None:
    return f"{what} for {lasted_s:.0f} s; {allowed_s:g} s are allowed" if lasted_s > allowed_s else None
