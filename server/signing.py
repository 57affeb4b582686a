"""Sign what a store holds: the side that has the private keys.

Signatures are attachments (ECDSA is randomised, and digests of manifests must not be): a release's is there before the release
is committed, and a generation's before the channels move, so that no crash leaves either without one.

Example::

    store = Store.create_or_open(Path("releases"), signer=own_signer())
    with store.lock():                                     # a new store gets its keys/ here
        store.publish(manifest, entry)                     # signed
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from fedrelease import facts
from fedrelease.errors import SignatureError
from fedrelease.files import digest_bytes, read_lines
from fedrelease.manifest import Manifest
from fedrelease.server import channels, journal
from fedrelease.server.attachments import put_attachment
from fedrelease.server.dsse import seal
from fedrelease.server.journal import LogEntry
from fedrelease.server.keys import PrivateKey, keys_folder, own_key
from fedrelease.server.release import load, versions
from fedrelease.server.signatures import SIGNATURE, Reader, Seen, channel_findings
from fedrelease.server.signed_store import SignedStore, new_root, put_root, signed_store, trusted_keys
from fedrelease.server.statements import channels_statement, release_statement
from fedrelease.server.trust import Known, TrustedKey, forget_hint, known_here, recall, remember

__all__ = ["Seal", "Signer", "learn", "own_signer", "reader_of"]


@final
@dataclass(frozen=True, kw_only=True)
class Signer:
    """Who signs: one key for each role, and the folder that remembers what was seen."""

    home: Path
    release: PrivateKey
    channel: PrivateKey


def own_signer(home: Path | None = None) -> Signer:
    """The user's own keys, made on first use.

    Raises:
        SignatureError: they are not safe where they are, or no keys of ours.
    """
    folder = keys_folder() if home is None else home
    return Signer(home=folder, release=own_key(folder, "release"), channel=own_key(folder, "channel"))


def reader_of(root: Path, signed: SignedStore, home: Path | None) -> Reader:
    """The store's signatures as they are now, and who may have made them."""
    return Reader(root, signed, trusted_keys(root, signed, home))


@final
class Seal:
    """What a store asks while it writes: to sign with the caller's keys, or to refuse where it has none.

    A store that nobody signs stays so until a writer comes with keys; from then on it is signed for good.
    """

    def __init__(self, root: Path, signer: Signer | None) -> None:
        """``signer`` is None for who only reads, or writes to a store that nobody signs."""
        self._root, self._signer = root, signer

    def begin(self, *, coming: str | None) -> None:
        """Refuse to build on what somebody without the keys changed. ``coming`` is the publish that a crash stopped.

        Raises:
            SignatureError: what is wrong with the channels or the log, or whose keys the store has.
        """
        signed = signed_store(self._root)
        if self._signer is not None and signed is not None:
            _check_untouched(self._root, signed, self._signer, coming=coming)

    def settle(self) -> None:
        """After a recovery: sign what is there when the store was not signed before, and channels whose log was rebuilt."""
        if self._signer is None:
            return
        signed = signed_store(self._root)
        if signed is None:
            signed = _adopt(self._root, self._signer)
        reader, data = (
            reader_of(self._root, signed, self._signer.home),
            channels.file_bytes(self._root / "channels.json"),
        )
        if data is not None and reader.generation().log not in (None, *reader.lines):
            _sign_generation(self._root, signed, data, self._signer)
        learn(self._root, signed, self._signer.home)

    def release(self, manifest: Manifest, to: tuple[str, ...]) -> None:
        """Sign a release that is about to be committed, unless that was done before a crash."""
        found = self._writing()
        if found is not None and self._signer is not None:
            _sign_release(reader_of(self._root, found, self._signer.home), manifest, to, self._signer)

    def generation(self, data: bytes) -> None:
        """Sign the bytes that ``channels.json`` is about to have."""
        found = self._writing()
        if found is not None and self._signer is not None:
            _sign_generation(self._root, found, data, self._signer)

    def check_release(self, version: str) -> Seen | None:
        """Refuse to log, or to point at, a release that nobody with the key signed; None where nobody signs.

        Raises:
            SignatureError: the release has no signature, or a wrong one.
        """
        signed = signed_store(self._root)
        if signed is None:
            return None
        found = load(self._root, version)
        seen = reader_of(self._root, signed, self._signer.home if self._signer else None).release(found.manifest)
        if seen.what is not None:
            hint = "see what `fedrelease verify` says, and restore the store from a copy"
            raise SignatureError(f"release {version}: {seen.what}", value=found.digest, hint=hint)
        return seen

    def still_to_do(self, entry: LogEntry) -> bool:
        """Whether a publish that a crash stopped has to be finished; the note of it is not signed, so it is not believed.

        Raises:
            SignatureError: the note asks for other channels than those that the release was signed for.
        """
        seen = self.check_release(entry.version)
        if seen is None:
            return True
        if seen.channels != entry.channels:
            hint = "delete publishing.json: somebody without the key wrote it"
            raise SignatureError("publishing.json asks for what nobody signed", value=list(entry.channels), hint=hint)
        return not self._is_done(entry)

    def end(self) -> None:
        """Remember how far the channels have come."""
        signed = signed_store(self._root)
        if self._signer is not None and signed is not None:
            learn(self._root, signed, self._signer.home)

    def _is_done(self, entry: LogEntry) -> bool:
        """Channels were signed with the log's line of this publish, or a later one: they moved already."""
        signed = signed_store(self._root)
        if signed is None:
            return False
        reader = reader_of(self._root, signed, self._signer.home if self._signer else None)
        at = [
            place
            for place, line in enumerate(journal.readable(self._root / "log.jsonl"))
            if line.digest == entry.digest
        ]
        log = reader.generation().log
        return bool(at) and log in reader.lines and reader.lines.index(log) >= at[0]

    def _writing(self) -> SignedStore | None:
        signed = signed_store(self._root)
        if signed is not None and self._signer is None:
            raise SignatureError(
                "the store is signed, and this writer has no key",
                value=str(self._root),
                hint="open it with signer=own_signer()",
            )
        return signed


def _adopt(root: Path, signer: Signer) -> SignedStore:
    """Sign all that is there, then say so in ``keys/``.

    Raises:
        SignatureError: this machine saw the folder signed already, and somebody took its keys away.
    """
    for known in known_here(signer.home, root) if versions(root) else ():
        hint = f"restore keys/ from a copy; {forget_hint(signer.home, known)}"
        raise SignatureError("the store was signed, and its keys/ no longer says so", value=str(root), hint=hint)
    keys = _keys_of(signer)
    signed = new_root(release=signer.release.public, channel=signer.channel.public)
    reader, data = Reader(root, signed, keys), channels.file_bytes(root / "channels.json")
    for version in versions(root):
        pointing = channels.read(root / "channels.json").pointing_at(version)
        _sign_release(reader, load(root, version).manifest, pointing, signer)
    if data is not None:
        _sign_generation(root, signed, data, signer)
    put_root(root, signed, keys)
    return signed


def _keys_of(signer: Signer) -> tuple[TrustedKey, ...]:
    return (
        TrustedKey(role="channel", pem=signer.channel.public.pem),
        TrustedKey(role="release", pem=signer.release.public.pem),
    )


def _check_untouched(root: Path, signed: SignedStore, signer: Signer, *, coming: str | None) -> None:
    reader = reader_of(root, signed, signer.home)
    for own in _keys_of(signer):
        if own not in reader.trusted:
            theirs = next((trust.key.fingerprint[:16] for trust in reader.trusted if trust.role == own.role), "unknown")
            mine = own.key.fingerprint[:16]
            raise SignatureError(
                f"the store is signed with another key: role {own.role} is {theirs}, and yours is {mine}",
                value=str(root),
                rule="who writes to a signed store has a key that it is signed with",
                hint=f"use that key (FEDRELEASE_KEYS), or let yours in with fedrelease keys trust {mine}",
            )
    for path, what in channel_findings(reader, recall(signer.home, signed.id, root), coming=coming):
        if what is not None and reader.lines:  # a lost log is rebuilt
            hint = "see what `fedrelease verify` says, and restore that file from a copy"
            raise SignatureError(f"{path} is not what was signed: {what}", value=str(root), hint=hint)


def _sign_release(reader: Reader, manifest: Manifest, to: tuple[str, ...], signer: Signer) -> None:
    seen = reader.release(manifest)
    if seen.by != signer.release.public.fingerprint or seen.channels != to:
        statement = facts.to_bytes(release_statement(manifest, to))
        put_attachment(reader.root, manifest.digest, SIGNATURE, seal(statement, signer.release))


def _sign_generation(root: Path, signed: SignedStore, data: bytes, signer: Signer) -> None:
    """With the log as it is now."""
    lines = read_lines(root / "log.jsonl")
    number = facts.from_bytes(channels.Channels, data).generation
    log = digest_bytes(lines[-1]) if lines else None
    statement = channels_statement(data, store=signed.id, generation=number, log=log)
    put_attachment(root, f"sha256:{digest_bytes(data)}", SIGNATURE, seal(facts.to_bytes(statement), signer.channel))


def learn(root: Path, signed: SignedStore, home: Path) -> None:
    """Remember the store as it is now: on first use its keys, and always how far its channels have come."""
    data = channels.file_bytes(root / "channels.json")
    here = Known(store=signed.id, folder=str(root.resolve()), keys=trusted_keys(root, signed, home))
    if data is not None:
        number = facts.from_bytes(channels.Channels, data).generation
        here = replace(here, generation=number, channels=digest_bytes(data))
    remember(home, here)
