"""Whether what a store holds is what the holders of its keys signed.

The rules, each with its own words: every release and every generation of the channels is signed by a key that this machine agreed
to; the statement is of exactly these bytes; the log holds the line that the channels were signed with, and no later move; the
generation is not below one that this machine has seen.

Example::

    reader = Reader(root=root, signed=signed, trusted=trusted_keys(root, signed, home))
    reader.release(manifest)                               # Seen(by='6a9d002e...', what=None)
    [what for path, what in channel_findings(reader, known, coming=None) if what]
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias, TypeVar

from fedrelease import facts
from fedrelease.errors import DamagedRelease
from fedrelease.files import digest_bytes, read_lines
from fedrelease.manifest import Manifest
from fedrelease.server import channels, journal
from fedrelease.server.attachments import Attachment, attachments
from fedrelease.server.dsse import IN_TOTO, Envelope, open_envelope
from fedrelease.server.keys import PublicKey
from fedrelease.server.signed_store import SignedStore
from fedrelease.server.statements import ChannelsStatement, ReleaseStatement, channels_statement, release_statement
from fedrelease.server.trust import Known, TrustedKey

__all__ = ["SIGNATURE", "Reader", "Seen", "channel_findings"]

SIGNATURE = "signature"
CHANNELS = "channels.json"
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
        if data is None:
            return Seen(what="it is missing")
        wrong: Seen | None = None
        for attachment in reversed(attachments(self.root, f"sha256:{digest_bytes(data)}", SIGNATURE)):
            found = self._open(attachment, "channel", ChannelsStatement)
            seen = Seen(what=found) if isinstance(found, str) else self._of_this_store(data, *found)
            if seen.what is None and (seen.log is None or seen.log in self.lines):
                return seen
            wrong = wrong or seen
        return wrong or Seen(what="it is not signed: somebody without the key moved the channels")

    @cached_property
    def channels_bytes(self) -> bytes | None:
        """The bytes of ``channels.json``, read once."""
        try:
            return (self.root / CHANNELS).read_bytes()
        except OSError:
            return None

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """The sha256 of each line of the log."""
        try:
            return tuple(digest_bytes(line) for line in read_lines(self.root / "log.jsonl"))
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


def channel_findings(reader: Reader, known: Known | None, *, coming: str | None) -> Iterator[Finding]:
    """What is wrong with the pointers as a whole, and with the log that they were signed with.

    ``coming`` is the version whose publish is under way: the log may tell of it before channels move.
    """
    moved = [entry.version for entry in journal.readable(reader.root / "log.jsonl") if entry.channels]
    if reader.channels_bytes is None:
        if set(moved) - {coming}:
            yield CHANNELS, "it is missing"
        return
    seen = reader.generation()
    yield CHANNELS, seen.what
    if seen.what is not None:
        return
    if seen.log is not None and seen.log not in reader.lines:
        yield "log.jsonl", "it lacks the line that channels.json was signed with: a line was changed or taken out"
    elif _later_moves(reader, seen) - {coming}:
        yield CHANNELS, "the log tells of later moves: an older file was put back"
    yield from _remembered(reader.channels_bytes, known)


def _later_moves(reader: Reader, seen: Seen) -> set[str]:
    """Versions that channels moved to, by the log, after the line that ``channels.json`` was signed with."""
    after = read_lines(reader.root / "log.jsonl")[reader.lines.index(seen.log) + 1 if seen.log else 0 :]
    found = set()
    for line in after:
        try:
            entry = facts.from_bytes(journal.LogEntry, line)
        except DamagedRelease:
            continue  # the chain names it
        found |= {entry.version} if entry.channels else set()
    return found


def _remembered(data: bytes, known: Known | None) -> Iterator[Finding]:
    if known is None:
        return
    try:
        generation = facts.from_bytes(channels.Channels, data).generation
    except DamagedRelease:
        return
    if generation < known.generation:
        what = (
            f"it has generation {generation}, and this machine has seen {known.generation}: an older file was put back"
        )
        yield CHANNELS, what
    elif generation == known.generation and digest_bytes(data) != known.channels:
        yield (
            CHANNELS,
            f"this machine has seen another file with generation {generation}: one of them is not the store's",
        )
