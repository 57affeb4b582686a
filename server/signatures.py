"""Whether what a store holds is what the holders of its keys signed.

The rules, each with its own words: every release and every generation of the channels is signed by a key that this machine agreed
to; the statement is of exactly these bytes; the log holds the line that the channels were signed with, and no later move; the
generation is not below one that this machine has seen.

Example::

    reader = Reader(root=root, signed=signed, trusted=trusted_keys(root, signed, home))
    reader.release(manifest)                               # Seen(by='6a9d002e...', what=None)
    [what for path, what in channel_findings(reader, known, None) if what]
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias, TypeVar

from fedrelease import facts
from fedrelease.errors import DamagedRelease
from fedrelease.files import digest_bytes, read_lines
from fedrelease.manifest import Manifest
from fedrelease.server import channels, journal
from fedrelease.server.attachments import Attachment, attachments
from fedrelease.server.channels import FILE
from fedrelease.server.dsse import IN_TOTO, Envelope, open_envelope
from fedrelease.server.intent import Intent
from fedrelease.server.journal import FIRST, LogEntry
from fedrelease.server.keys import PublicKey
from fedrelease.server.signed_store import SignedStore
from fedrelease.server.statements import ChannelsStatement, ReleaseStatement, channels_statement, release_statement
from fedrelease.server.trust import Known, TrustedKey

__all__ = ["SIGNATURE", "Reader", "Seen", "channel_findings"]

SIGNATURE = "signature"
MISSING = (
    "it is not signed, as every release of this store is: its signature is gone, or somebody without the key made it"
)
Finding: TypeAlias = tuple[str, str | None]
Statement = TypeVar("Statement", ReleaseStatement, ChannelsStatement)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one look at the signatures of something gave: who signed and what, or what is wrong."""

    by: str | None = None
    channels: tuple[str, ...] = ()
    log: str | None = None
    what: str | None = None


@dataclass(frozen=True)
class Reader:
    """A store's signatures, read with the keys that this machine agreed to."""

    root: Path
    signed: SignedStore
    trusted: tuple[TrustedKey, ...]

    def release(self, manifest: Manifest) -> Seen:
        """Who signed a release, and the channels that it was published to."""
        wrong = MISSING
        for attachment in attachments(self.root, manifest.digest, SIGNATURE):
            found = self._open(attachment, "release", ReleaseStatement)
            if isinstance(found, str):
                wrong = found
            elif found[1] == release_statement(manifest, found[1].predicate.channels):
                return Seen(by=found[0], channels=found[1].predicate.channels)
            else:
                wrong = f"its signature is of something else than release {manifest.version}"
        return Seen(what=wrong)

    def generation(self) -> Seen:
        """Who signed ``channels.json`` as it is now, and the line of the log that it was signed with."""
        data = self.channels_bytes
        return Seen(what="it is missing") if data is None else self._generation(data, self.lines)

    def told(self, data: bytes, lines: tuple[str, ...]) -> Seen:
        """Who signed channels that are about to be those of the store, with a log of these lines (their sha256)."""
        seen = self._generation(data, lines)
        if seen.what is None and seen.log is not None and seen.log not in lines:
            return Seen(what="the log lacks the line that the channels were signed with")
        return seen

    def announced(self, meant: Intent) -> bool:
        """Whether who has the keys is about to do this: the channels are signed, with this very line of the log."""
        if meant.moved is None:  # a line about a release, which has a signature of its own
            return meant.entry.event in journal.RELEASES
        lines = self._lines_of(meant.entry)
        seen = self._generation(facts.to_bytes(meant.moved), lines)
        return seen.by is not None and seen.log in lines

    def line_to_come(self, entry: LogEntry) -> str:
        """The sha256 of the line that the log gets when this is appended."""
        previous = FIRST
        with suppress(OSError):  # a log that cannot be read has no line that anybody could have signed
            previous = journal.next_previous(self.root / journal.FILE)
        return digest_bytes(facts.to_bytes(replace(entry, previous=previous)))

    def _lines_of(self, entry: LogEntry) -> tuple[str, ...]:
        """The line to come, and the one that came already."""
        every = journal.readable(self.root / journal.FILE)
        written = (line for line in every if replace(line, previous=FIRST) == replace(entry, previous=FIRST))
        return (self.line_to_come(entry), *(digest_bytes(facts.to_bytes(line)) for line in written))

    def _generation(self, data: bytes, lines: tuple[str, ...]) -> Seen:
        wrong: Seen | None = None
        for attachment in reversed(attachments(self.root, f"sha256:{digest_bytes(data)}", SIGNATURE)):
            found = self._open(attachment, "channel", ChannelsStatement)
            seen = Seen(what=found) if isinstance(found, str) else self._of_this_store(data, *found)
            if seen.what is None and (seen.log is None or seen.log in lines):
                return seen
            wrong = wrong or seen
        return wrong or Seen(what="it is not signed: somebody without the key moved the channels")

    @cached_property
    def channels_bytes(self) -> bytes | None:
        """The bytes of ``channels.json``, read once."""
        try:
            return (self.root / FILE).read_bytes()
        except OSError:
            return None

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """The sha256 of each line of the log."""
        try:
            return tuple(digest_bytes(line) for line in read_lines(self.root / journal.FILE))
        except OSError:
            return ()

    def _of_this_store(self, data: bytes, by: str, statement: ChannelsStatement) -> Seen:
        told = statement.predicate
        if told.store != self.signed.id:
            return Seen(what=f"it was signed for another store, {told.store[:16]}")
        try:
            number = facts.from_bytes(channels.Channels, data).generation
        except DamagedRelease as error:
            return Seen(what=error.what)
        expected = channels_statement(data, store=told.store, generation=number, log=told.log)
        return Seen(by=by, log=told.log) if statement == expected else Seen(what="its signature is of something else")

    def _open(self, attachment: Attachment, role: str, kind: type[Statement]) -> tuple[str, Statement] | str:
        """The key's fingerprint and the statement; or what is wrong with the signature."""
        try:
            envelope = open_envelope(attachment.read())
            by = self._signer(envelope, role)
            if by is None:
                return _refusal(envelope, self._keys(role))
            return by, facts.from_bytes(kind, envelope.content())
        except DamagedRelease as error:
            return f"its signature is damaged: {error.what}"

    def _signer(self, envelope: Envelope, role: str) -> str | None:
        keys = self._keys(role) if envelope.payloadType == IN_TOTO else ()
        return next((key.fingerprint for key in keys if envelope.signed_by(key)), None)

    def _keys(self, role: str) -> tuple[PublicKey, ...]:
        return tuple(trust.key for trust in self.trusted if trust.role == role)


def _refusal(envelope: Envelope, keys: tuple[PublicKey, ...]) -> str:
    told = envelope.signatures[0].keyid if envelope.signatures else "nobody"
    if told in {key.fingerprint for key in keys}:
        return f"its signature is wrong: {told[:16]} did not sign this"
    return f"it is signed by another key, {told[:16]}, which this machine has not agreed to for this"


def channel_findings(
    reader: Reader, known: Known | None, meant: Intent | None, log: Sequence[LogEntry]
) -> Iterator[Finding]:
    """What is wrong with the pointers as a whole, and with the log that they were signed with.

    ``meant`` is what a writer is about to do, or was when it was killed: ``log``, which is read after it and before the channels,
    may tell of it before channels move.
    """
    told = max((entry.generation or 0 for entry in log), default=0)
    if meant is not None and meant.moved is not None and told == meant.moved.generation and reader.announced(meant):
        told -= 1
    if reader.channels_bytes is None:
        if told:
            yield FILE, "it is missing"
        return
    seen = reader.generation()
    yield FILE, seen.what
    if seen.what is not None:
        return
    if seen.log is not None and seen.log not in reader.lines:
        yield journal.FILE, "it lacks the line that channels.json was signed with: a line was changed or taken out"
    generation = channels.read(reader.root).generation
    if generation < told:
        yield FILE, f"it is generation {generation}, and the log tells of {told}: an old file was put back"
    yield from _remembered(reader.channels_bytes, generation, known)


def _remembered(data: bytes, generation: int, known: Known | None) -> Iterator[Finding]:
    if known is not None and generation < known.generation:
        yield (
            FILE,
            f"it is generation {generation}, and this machine has seen {known.generation}: an old file was put back",
        )
    elif known is not None and generation == known.generation and digest_bytes(data) != known.channels:
        yield FILE, f"this machine has seen another file with generation {generation}: one of them is not the store's"
