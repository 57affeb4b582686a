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
from fedrelease.files import digest_bytes
from fedrelease.manifest import Manifest
from fedrelease.server import channels, journal
from fedrelease.server.attachments import put_attachment
from fedrelease.server.channels import Channels
from fedrelease.server.dsse import seal
from fedrelease.server.intent import Intent, announced
from fedrelease.server.keys import PrivateKey, keys_folder, own_key
from fedrelease.server.release import load, versions
from fedrelease.server.signatures import SIGNATURE, Reader, channel_findings
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

    def begin(self) -> None:
        """Refuse to build on what somebody without the keys changed.

        Raises:
            SignatureError: what is wrong with the channels or the log, or whose keys the store has.
        """
        signed = signed_store(self._root)
        if self._signer is not None and signed is not None:
            _check_untouched(self._root, signed, self._signer)

    def settle(self) -> None:
        """After a recovery: sign what is there when the store was not signed before, and channels whose log was rebuilt."""
        if self._signer is None:
            return
        signed = signed_store(self._root)
        if signed is None:
            signed = _adopt(self._root, self._signer)
        now, reader = channels.read(self._root), reader_of(self._root, signed, self._signer.home)
        if now.generation and reader.generation().log not in (None, *reader.lines):
            _sign_generation(reader, now, _last(reader), self._signer)
        learn(self._root, signed, self._signer.home)

    def release(self, manifest: Manifest, to: tuple[str, ...]) -> None:
        """Sign a release that is about to be committed, unless that was done before a crash."""
        found = self._writing()
        if found is not None and self._signer is not None:
            _sign_release(reader_of(self._root, found, self._signer.home), manifest, to, self._signer)

    def intent(self, meant: Intent) -> None:
        """Sign the channels that are about to be, with the line that the log is about to get."""
        found = self._writing()
        if found is not None and self._signer is not None and meant.moved is not None:
            reader = reader_of(self._root, found, self._signer.home)
            _sign_generation(reader, meant.moved, reader.line_to_come(meant.entry), self._signer)

    def check_intent(self, meant: Intent) -> None:
        """Refuse to finish what no writer with the keys began: the note of it is not believed.

        Raises:
            SignatureError: the release, or the channels that the note asks for, are not signed.
        """
        signed = signed_store(self._root)
        if signed is None:
            return
        if meant.entry.event in journal.RELEASES:
            self.check_release(meant.entry.version)
        if not reader_of(self._root, signed, self._signer.home if self._signer else None).announced(meant):
            hint = "delete publishing.json: somebody without the key wrote it"
            raise SignatureError("publishing.json asks for what nobody signed", value=meant.entry.event, hint=hint)

    def check_release(self, version: str) -> None:
        """Refuse to log a release that nobody with the key signed.

        Raises:
            SignatureError: the release has no signature, or a wrong one.
        """
        signed = signed_store(self._root)
        if signed is None:
            return
        found = load(self._root, version)
        seen = reader_of(self._root, signed, self._signer.home if self._signer else None).release(found.manifest)
        if seen.what is not None:
            hint = "see what `fedrelease verify` says, and restore the store from a copy"
            raise SignatureError(f"release {version}: {seen.what}", value=found.digest, hint=hint)

    def end(self) -> None:
        """Remember how far the channels have come."""
        signed = signed_store(self._root)
        if self._signer is not None and signed is not None:
            learn(self._root, signed, self._signer.home)

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
    reader, now = Reader(root, signed, keys), channels.read(root)
    for version in versions(root):
        _sign_release(reader, load(root, version).manifest, now.pointing_at(version), signer)
    if now.generation:
        _sign_generation(reader, now, _last(reader), signer)
    put_root(root, signed, keys)
    return signed


def _keys_of(signer: Signer) -> tuple[TrustedKey, ...]:
    return (
        TrustedKey(role="channel", pem=signer.channel.public.pem),
        TrustedKey(role="release", pem=signer.release.public.pem),
    )


def _check_untouched(root: Path, signed: SignedStore, signer: Signer) -> None:
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
    known, meant = recall(signer.home, signed.id, root), announced(root)
    for path, what in channel_findings(reader, known, meant, journal.readable(root / journal.FILE)):
        if what is not None and (reader.lines or path != journal.FILE):  # a lost log is rebuilt
            hint = "see what `fedrelease verify` says, and restore that file from a copy"
            raise SignatureError(f"{path} is not what was signed: {what}", value=str(root), hint=hint)


def _sign_release(reader: Reader, manifest: Manifest, to: tuple[str, ...], signer: Signer) -> None:
    seen = reader.release(manifest)
    if seen.by != signer.release.public.fingerprint or seen.channels != to:
        statement = facts.to_bytes(release_statement(manifest, to))
        put_attachment(reader.root, manifest.digest, SIGNATURE, seal(statement, signer.release))


def _sign_generation(reader: Reader, moved: Channels, log: str | None, signer: Signer) -> None:
    data = facts.to_bytes(moved)
    statement = channels_statement(data, store=reader.signed.id, generation=moved.generation, log=log)
    sealed = seal(facts.to_bytes(statement), signer.channel)
    put_attachment(reader.root, f"sha256:{digest_bytes(data)}", SIGNATURE, sealed)


def _last(reader: Reader) -> str | None:
    """The sha256 of the last line of the log."""
    return reader.lines[-1] if reader.lines else None


def learn(root: Path, signed: SignedStore, home: Path) -> None:
    """Remember the store as it is now: on first use its keys, and always how far its channels have come."""
    now, keys = channels.read(root), trusted_keys(root, signed, home)
    here = Known(store=signed.id, folder=str(root.resolve()), keys=keys)
    if now.generation:
        here = replace(here, generation=now.generation, channels=digest_bytes(facts.to_bytes(now)))
    remember(home, here)
