"""From what a run told its watcher to the seconds of its steps.

Example::

    timeline = Timeline()
    simulate(experiment, ..., watch=timeline.hear)
    timeline.seconds()                         # {'train': 41.2, 'evaluate': 9.8, 'publish': 0.2, 'between': 0.0}
"""

import time
from collections.abc import Callable, Mapping

from fedrelease.server.events import Event, Opened, Released, RoundStarted, SiteAnswered

__all__ = ["STEPS", "Timeline"]

STEPS = ("train", "evaluate", "publish", "between")
"""Until the last site has trained; until the last has evaluated (the aggregate is made in it); until the release; until the next
round."""


class Timeline:
    """When a federation reached what, on a clock that all processes of a machine share."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing heard."""
        self._now = now
        self._heard: list[tuple[float, Event]] = []

    def hear(self, event: Event) -> None:
        """Note the time of an event."""
        self._heard.append((self._now(), event))

    @property
    def opened(self) -> float:
        """When store and sites were there."""
        return next(at for at, event in self._heard if isinstance(event, Opened))

    @property
    def first(self) -> float:
        """When the first round started."""
        return next(at for at, event in self._heard if isinstance(event, RoundStarted))

    @property
    def last(self) -> float:
        """When the last release was in the store."""
        return next(at for at, event in reversed(self._heard) if isinstance(event, Released))

    def seconds(self) -> Mapping[str, float]:
        """Seconds of each step over all rounds; they add up to ``last - first``."""
        spent = dict.fromkeys(STEPS, 0.0)
        before = self.first
        for at, event in self._heard:
            if at >= self.first:
                spent[_step(event)] += at - before
                before = at
        return spent


def _step(event: Event) -> str:
    """The step that an event ends, or is part of."""
    if isinstance(event, SiteAnswered):
        return event.step
    return "publish" if isinstance(event, Released) else "between"
