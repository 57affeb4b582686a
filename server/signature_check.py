"""What :mod:`fedrelease.server.verify` finds out about signatures and attachments: paths, and what is wrong there.

Example::

    check = SignatureCheck(root, keys_folder())
    problems = [found for found in check.release(manifest) if found[1]]
    check.signers()                                        # {'release': ('6a9d002e...',)}
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, final

from fedrelease.errors import DamagedRelease, SignatureError
from fedrelease.manifest import Manifest, check_digest
from fedrelease.server.attachments import attachments
from fedrelease.server.channels import Channels
from fedrelease.server.intent import Intent
from fedrelease.server.journal import LogEntry
from fedrelease.server.release import versions
from fedrelease.server.signatures import SIGNATURE, Reader, channel_findings
from fedrelease.server.signed_store import key_findings, signed_store, trusted_keys
from fedrelease.server.trust import Known, forget_hint, known_here, recall

__all__ = ["SignatureCheck"]

Finding: TypeAlias = tuple[str, str | None]


@final
class SignatureCheck:
    """One look at a store's signatures. In a store that nobody signs it finds attachments only."""

    def __init__(self, root: Path, home: Path | None) -> None:
        """``home`` is the user's folder of keys, or None."""
        self._root, self._home = root, home
        self._by: dict[str, set[str]] = {}
        self._broken: SignatureError | None = None
        self._known: Known | None = None
        self._reader: Reader | None = None
        try:
            self._reader = self._read()
        except SignatureError as error:
            if home is not None and str(error.value).startswith(str(home)):
                raise  # of the user's own folder
            self._broken = error

    def store(self) -> Iterator[Finding]:
        """Whether the store says whose it is, and the keys in it."""
        if self._broken is not None:
            yield str(self._broken.value), self._broken.what
        elif self._reader is None:
            yield from self._of_unsigned()
        else:
            yield from key_findings(self._root, self._reader.signed, self._reader.trusted)
            yield from self._of_another()

    def release(self, manifest: Manifest) -> Iterator[Finding]:
        """The attachments of a release, and whether one is the signature that it must have."""
        yield from self._attached(manifest.digest, f"of {manifest.version}")
        if self._reader is not None:
            seen = self._reader.release(manifest)
            self._note("release", seen.by)
            yield f"attach/{check_digest(manifest.digest)} (signature of {manifest.version})", seen.what

    def generation(self, one: Channels, digest: str) -> Iterator[Finding]:
        """The attachments of a generation of the channels.

        Those before the newest follow by their digests from the one that is signed; their own signatures are read all the same.
        """
        return self._attached(digest, f"of channels, generation {one.generation}")

    def channels(self, meant: Intent | None, log: Sequence[LogEntry]) -> Iterator[Finding]:
        """Whether the pointers and the log are what was signed last.

        ``meant`` is what a writer is about to do; ``log`` was read after that and before the channels.
        """
        if self._reader is not None:
            self._note("channel", self._reader.generation().by)
            yield from channel_findings(self._reader, self._known, meant, log)

    def signers(self) -> Mapping[str, tuple[str, ...]]:
        """Role -> fingerprints of the keys whose signatures were right."""
        return {role: tuple(sorted(found)) for role, found in sorted(self._by.items())}

    def _read(self) -> Reader | None:
        signed = signed_store(self._root)
        if signed is None:
            return None
        self._known = recall(self._home, signed.id, self._root) if self._home is not None else None
        return Reader(self._root, signed, trusted_keys(self._root, signed, self._home))

    def _of_unsigned(self) -> Iterator[Finding]:
        if any((self._root / "attach").glob(f"*/{SIGNATURE}.*")):
            yield "keys", "there are signatures, and nothing says by whose keys: keys/store-*.json is missing"
        elif self._home is not None and versions(self._root):
            for known in known_here(self._home, self._root):
                hint = forget_hint(self._home, known)
                yield "keys", f"this machine has seen this store signed, and now it says nothing of it; {hint}"

    def _of_another(self) -> Iterator[Finding]:
        """Another store in the place of one that this machine knows."""
        before = known_here(self._home, self._root) if self._home is not None and self._known is None else ()
        for known in before:
            hint = forget_hint(self._home or self._root, known)
            yield "keys", f"this machine knows another store in this folder, {known.store[:16]}; {hint}"

    def _attached(self, digest: str, of: str) -> Iterator[Finding]:
        for attachment in attachments(self._root, digest):
            try:
                attachment.read()
            except DamagedRelease as error:
                yield f"{attachment.name} ({attachment.kind} {of})", error.what
            else:
                yield f"{attachment.name} ({attachment.kind} {of})", None

    def _note(self, role: str, by: str | None) -> None:
        if by is not None:
            self._by.setdefault(role, set()).add(by)
