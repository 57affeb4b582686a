"""What a running federation tells whoever watches it: plain facts, pushed to one callable.

Example::

    def watch(event: Event) -> None:
        if isinstance(event, Released):
            print(event.version, event.metrics["accuracy"])
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

from fedrelease.files import Json

__all__ = [
    "Event",
    "MemoryBegins",
    "NotWaitedFor",
    "Opened",
    "Released",
    "RoundStarted",
    "SiteAnswered",
    "Watcher",
    "event_facts",
    "event_of",
]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The store is open and the sites are known. ``resumed`` is true when a parent release was found."""

    head: str | None
    resumed: bool
    sites: Sequence[str]
    rounds: int
    rounds_done: int


@dataclass(frozen=True, kw_only=True)
class MemoryBegins:
    """A phase begins with another strategy than the one before it, whose memory is not for it.

    Attributes:
        strategy: that begins with an empty memory. before: the one before it.
        kept: the release whose memory ``before`` would have gone on with; ``None`` where it keeps none.
    """

    phase: str
    strategy: str
    before: str
    kept: str | None


@dataclass(frozen=True, kw_only=True)
class RoundStarted:
    """A round begins; ``spooled`` sites need not be asked again."""

    version: str
    phase: str
    round: int
    cohort: tuple[str, ...]
    spooled: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SiteAnswered:
    """A site's answer arrived; ``refused`` says why it does not count. ``step`` is ``train`` or ``evaluate``."""

    version: str
    step: str
    site: str
    refused: str | None
    epsilon: float | None


@dataclass(frozen=True, kw_only=True)
class NotWaitedFor:
    """A step of a round ended without these sites, who had ``allowed_s``; those who answered took ``median_s``."""

    version: str
    step: str
    sites: tuple[str, ...]
    allowed_s: float
    median_s: float


@dataclass(frozen=True, kw_only=True)
class Released:
    """A version is in the store for good; ``held`` says why its gates gave it no channel, where they did."""

    version: str
    digest: str
    metrics: Mapping[str, float]
    epsilon: float | None
    bytes_up: int
    bytes_down: int
    seconds: float
    held: str | None = None


Event: TypeAlias = Opened | MemoryBegins | RoundStarted | SiteAnswered | NotWaitedFor | Released
Watcher: TypeAlias = Callable[[Event], None]


def event_facts(event: Event) -> Mapping[str, Json]:
    """An event as plain facts, for a log or another process."""
    facts: dict[str, Json] = json.loads(json.dumps(asdict(event)))
    return {"event": type(event).__name__, **facts}


def event_of(facts: Mapping[str, object]) -> Event | None:
    """The event that :func:`event_facts` made these of; ``None`` if they are something else."""
    kinds = (Opened, MemoryBegins, RoundStarted, SiteAnswered, NotWaitedFor, Released)
    kind = {one.__name__: one for one in kinds}.get(str(facts.get("event")))
    if kind is None:
        return None
    known = kind.__dataclass_fields__
    told = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items() if key in known}
    return kind(**told)  # type: ignore[arg-type]  # facts of our own process
