"""``publishing.json``: what a writer is about to do to the log and the channels, so that a crash in between can be finished.

Example::

    announce(root, Intent(entry=entry, moved=channels))    # then the commit point, if there is one
    fulfil(root, intent, log)                              # the log's line, the channels, and the intent is gone
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedrelease import facts
from fedrelease.errors import DamagedRelease
from fedrelease.files import sync_folder, write_durably
from fedrelease.server import channels
from fedrelease.server.channels import Channels
from fedrelease.server.journal import RELEASES, LogEntry
from fedrelease.server.release import committed_digest, version_path
from fedrelease.server.written_log import WrittenLog

__all__ = ["FILE", "Intent", "announce", "announced", "fulfil", "settle"]

FILE = "publishing.json"


@dataclass(frozen=True, kw_only=True)
class Intent:
    """A line for the log, and the channels after it; None where they stay."""

    entry: LogEntry
    moved: Channels | None


def announce(root: Path, intent: Intent) -> None:
    """Write it down durably."""
    write_durably(root / FILE, facts.to_bytes(intent))


def announced(root: Path) -> Intent | None:
    """What a writer is about to do, or was when it was killed."""
    with suppress(OSError, DamagedRelease):
        return facts.from_bytes(Intent, (root / FILE).read_bytes())
    return None


def settle(root: Path, log: WrittenLog, *, check: Callable[[Intent], None]) -> None:
    """Finish what was announced. A publish whose version was not committed never happened.

    ``check`` may refuse, by raising, what no writer announced: anybody who can write to the folder can write this file.
    """
    intent = announced(root)
    if intent is not None and _stands(root, intent.entry):
        check(intent)
        fulfil(root, intent, log)
    (root / FILE).unlink(missing_ok=True)


def fulfil(root: Path, intent: Intent, log: WrittenLog) -> None:
    """Log it and move the channels; every step is safe to do twice."""
    sync_folder(root / "versions")
    if not log.tells(intent.entry):
        log.append(intent.entry)
    if intent.moved is not None and channels.read(root).generation < intent.moved.generation:
        channels.write(root, intent.moved)
    (root / FILE).unlink(missing_ok=True)
    sync_folder(root)  # or a power cut could bring the intent back after a later move


def _stands(root: Path, entry: LogEntry) -> bool:
    if entry.event not in RELEASES:
        return True
    exists = version_path(root, entry.version).exists()
    return exists and committed_digest(root, entry.version) == entry.digest
