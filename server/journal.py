"""``log.jsonl``: what happened to the store, one line each, chained by sha256 so that no line can be changed unseen.

Example::

    append(Path("releases/log.jsonl"), entry_for(manifest, channels=("stable",), time=utc_now(), seconds=12.5))
    [entry.event for entry in read(Path("releases/log.jsonl"))]          # ['released']
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from fedrelease import facts
from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.files import append_durably, digest_bytes, last_line, read_lines
from fedrelease.manifest import Manifest, parse_version

__all__ = [
    "EVENTS",
    "FILE",
    "FIRST",
    "RELEASES",
    "Link",
    "LogEntry",
    "append",
    "check_chain",
    "entry_for",
    "links",
    "next_previous",
    "read",
    "readable",
    "utc_now",
]

FILE = "log.jsonl"
RELEASES = ("held", "released")
MOVES = ("pause", "promote", "resume", "retire", "rollback", "unyank", "yank")
EVENTS = (*RELEASES, "round-failed", *MOVES)
FIRST = "0" * 64
Link: TypeAlias = "tuple[LogEntry | None, str | None]"
"""A line's entry if it is readable, and what is wrong with it if anything is."""


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """One line of the log.

    Attributes:
        version, digest: of the release, or of the one that a channel was moved to, or of the newest one when older ones were
            retired; a failed round has the version it would have had, and no digest.
        event: a verdict, ``round-failed``, or the verb that moved channels; ``retire`` moves none, and its generation has the
            list of what went.
        channels: those that moved to this release.
        seconds, bytes_up, bytes_down: what the round took; None where a crash lost the numbers.
        time: ISO 8601, UTC.
        reason: why a round failed, a candidate was held, or somebody moved a channel. actor: who did.
        generation: of the channels after it.
        previous: sha256 of the line before (64 zeros in the first line); set by :func:`append`.
    """

    version: str
    digest: str | None
    event: str
    phase: str
    round: int
    time: str
    channels: tuple[str, ...] = ()
    seconds: float | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    reason: str | None = None
    actor: str | None = None
    generation: int | None = None
    previous: str = FIRST

    def __post_init__(self) -> None:
        """Check bounds."""
        parse_version(self.version)
        if self.event not in EVENTS:
            raise StoreError("unknown event", value=self.event, rule=f"an event is one of {', '.join(EVENTS)}")
        if (self.digest is None) != (self.event == "round-failed"):
            raise StoreError("a release has a digest and a failed round has none", value=self.digest)


def utc_now() -> str:
    """The time as the log writes it, such as ``2031-05-01T12:00:00+00:00``."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def entry_for(
    manifest: Manifest,
    *,
    channels: tuple[str, ...],
    time: str,
    seconds: float | None = None,
    bytes_up: int | None = None,
    bytes_down: int | None = None,
    reason: str | None = None,
) -> LogEntry:
    """The line of a release; its event is the manifest's verdict."""
    return LogEntry(
        version=manifest.version,
        digest=manifest.digest,
        event=manifest.verdict,
        phase=manifest.phase,
        round=manifest.round,
        time=time,
        channels=channels,
        seconds=seconds,
        bytes_up=bytes_up,
        bytes_down=bytes_down,
        reason=reason,
    )


def append(path: Path, entry: LogEntry) -> LogEntry:
    """Add a line durably, chained to the last one; return it as written. The caller holds the store's lock."""
    chained = replace(entry, previous=next_previous(path))
    append_durably(path, facts.to_bytes(chained))
    return chained


def next_previous(path: Path) -> str:
    """What the next line will say of the one before it; only the last line is read."""
    last = last_line(path)
    return digest_bytes(last.line) if last is not None else FIRST


def links(path: Path) -> Iterator[Link]:
    """Every line, in one reading for whoever wants both the entries and what is wrong."""
    try:
        lines = read_lines(path)
    except OSError as error:
        yield None, f"cannot be read: {error.strerror}"
        return
    previous = FIRST
    for number, line in enumerate(lines, start=1):
        try:
            entry = facts.from_bytes(LogEntry, line)
        except DamagedRelease as error:
            yield None, f"line {number} is unreadable: {error}"
        else:
            broken = entry.previous != previous
            yield entry, f"line {number} does not follow from the line before it" if broken else None
        previous = digest_bytes(line)


def read(path: Path) -> tuple[LogEntry, ...]:
    """All entries, oldest first; a torn last line never counted and is left out.

    Raises:
        DamagedRelease: the chain is broken or a line is unreadable; the message names the line.
    """
    entries = []
    for entry, what in links(path):
        if entry is None or what is not None:
            raise DamagedRelease(f"{path.name} {what}", value=path.name, hint="see what `fedrelease verify` says")
        entries.append(entry)
    return tuple(entries)


def check_chain(path: Path) -> tuple[str, ...]:
    """What is wrong with the log, one text a line; nothing when all is well.

    Guarantees: a changed, removed, added or moved line is found, unless it is the last: nothing comes after it that
    would know.
    """
    return tuple(what for _, what in links(path) if what is not None)


def readable(path: Path) -> tuple[LogEntry, ...]:
    """The entries that can be read, whether the chain holds or not: for looking into a damaged store only."""
    return tuple(entry for entry, _ in links(path) if entry is not None)
