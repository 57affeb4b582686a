"""The log as its writer knows it: read whole once, then only its last line.

Example::

    log = WrittenLog(Path("releases/log.jsonl"))           # by who holds the store's lock, until it is given back
    log.tells(entry)                                       # False
    log.append(entry)
    log.newest                                             # '0.1.3'
"""

from dataclasses import replace
from pathlib import Path
from typing import final

from fedrelease import facts
from fedrelease.files import LastLine, last_line
from fedrelease.manifest import version_key
from fedrelease.server import journal
from fedrelease.server.journal import FIRST, RELEASES, LogEntry

__all__ = ["WrittenLog"]


@final
class WrittenLog:
    """What a log tells, for its only writer, at a cost that does not grow with the log.

    Guarantees: nothing here is older than the file. Before each answer the last line on disk is compared, and each line carries
    the digest of the one before it; where it is not the line that was read or written here last, the whole log is read and its
    chain checked again. That is so after a write that failed half-way, and when another part of this process wrote.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is read yet. Whatever is asked first reads and checks the whole log."""
        self._path, self._was_read = path, False
        self._last: LastLine | None = None
        self._releases, self._others = set[str](), set[LogEntry]()
        self._newest: str | None = None

    @property
    def newest(self) -> str | None:
        """The highest version of a release that the log tells of.

        Raises:
            DamagedRelease: the chain is broken or a line is unreadable; the message names the line. So do the others.
        """
        self._follow()
        return self._newest

    @property
    def releases(self) -> frozenset[str]:
        """Every version that the log tells of the release of."""
        self._follow()
        return frozenset(self._releases)

    def tells(self, entry: LogEntry) -> bool:
        """Whether it has a line for this: a release has one line, whatever that says beside; of moves each is its own."""
        self._follow()
        return entry.version in self._releases if entry.event in RELEASES else _alone(entry) in self._others

    def append(self, entry: LogEntry) -> LogEntry:
        """Add a line durably, chained to the last one; return it as written."""
        self._follow()
        written = journal.append(self._path, entry)
        line = facts.to_bytes(written)
        self._last = LastLine(line=line, length=(self._last.length if self._last else 0) + len(line) + 1)
        self._note(written)
        return written

    def _follow(self) -> None:
        if not self._was_read or last_line(self._path) != self._last:
            self._read()

    def _read(self) -> None:
        self._was_read, self._last = False, last_line(self._path)
        entries = journal.read(self._path)
        self._releases, self._others, self._newest = set(), set(), None
        for entry in entries:
            self._note(entry)
        self._was_read = True

    def _note(self, entry: LogEntry) -> None:
        if entry.event not in RELEASES:
            self._others.add(_alone(entry))
            return
        self._releases.add(entry.version)
        self._newest = max(self._newest or entry.version, entry.version, key=version_key)


def _alone(entry: LogEntry) -> LogEntry:
    """Whatever came before it."""
    return replace(entry, previous=FIRST)
