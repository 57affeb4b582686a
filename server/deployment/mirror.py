"""A copy of a federation's releases on another machine, brought up to date through the release service.

Example::

    with connect_releases(site) as client:
        mirror(client, Path("releases"), partial=folder / "partial", home=keys_folder())

What a pull from a folder does, with two things more: signatures are checked before anything points at what came, and a server
that says less than it said before is refused.
"""

import shutil
from pathlib import Path
from typing import final

from fedrelease import facts
from fedrelease.deployment.download import Progress, download
from fedrelease.deployment.release_client import ReleaseClient, RemoteFile
from fedrelease.errors import DamagedRelease, SignatureError
from fedrelease.files import digest_bytes
from fedrelease.manifest import Manifest, check_digest, check_sha256
from fedrelease.server.blobs import disk_errors, read_blob
from fedrelease.server.channels import Channels
from fedrelease.server.contents import Pointers, check_name, pointers_of
from fedrelease.server.journal import FILE as LOG
from fedrelease.server.journal import RELEASES, LogEntry
from fedrelease.server.replay import Copied, missing, replay
from fedrelease.server.signed_store import SignedStore, signed_store
from fedrelease.server.signing import learn, reader_of
from fedrelease.server.store import Store
from fedrelease.server.trust import forget_hint, known_here, recall

__all__ = ["mirror"]


def mirror(
    client: ReleaseClient, folder: Path, *, partial: Path, home: Path, progress: Progress | None = None
) -> Copied:
    """Bring the store in ``folder``, which is made if need be, up to what the service has.

    Args:
        partial: where files lie that are not whole yet. home: the user's folder of keys, which remembers whose they are.

    Raises:
        SignatureError: something is not signed by the keys that this machine agreed to, or is older than what it has seen.
        DamagedRelease: what came is not what its name promises.
        StoreError: both have releases of their own, somebody writes to the store, or the disk refuses.
        FedreleaseError: the service refuses, or cannot be reached.
    """
    store = Store.create_or_open(folder)
    source = _Service(client, folder, partial, progress)
    with disk_errors(partial):
        source.prefetch()
    with store.lock():
        copied = replay(source, store, told=client.address, check=lambda theirs: _check_signed(folder, theirs, home))
        signed = signed_store(folder)
        if signed is not None:
            learn(folder, signed, home)
    return copied


@final
class _Service:
    """The service as a source that a store is replayed from."""

    def __init__(self, client: ReleaseClient, root: Path, partial: Path, progress: Progress | None) -> None:
        self._client, self._root, self._partial, self._progress = client, root, partial, progress
        self._files: dict[str, RemoteFile] = {}

    def pointers(self) -> Pointers | None:
        """What the service says now; it may not go back.

        Raises:
            SignatureError: it says less than what is here already.
        """
        log, told = self._client.pointers()
        theirs, ours = _pointers(log, told), pointers_of(self._root)
        if theirs.generation < ours.generation or len(theirs.lines) < len(ours.lines):
            raise SignatureError(
                f"the server is at generation {theirs.generation}, and the copy here at {ours.generation}",
                value=str(self._root),
                rule="channels only go forward: an old state was put back there, or somebody replays one",
                hint="ask the operator; after a restored backup, fetch into a new folder with --store",
            )
        return theirs if log or told else None

    def contents(self) -> dict[str, int]:
        """What it has, by name."""
        self._files = {check_name(file.name): file for file in self._client.contents()}
        for file in self._files.values():
            check_sha256(file.sha256)
        ours = {path.name for path in (self._root / "keys").glob("store-*.json")}
        theirs = {name.partition("/")[2] for name in self._files if name.startswith("keys/store-")}
        if ours and theirs != ours:
            raise SignatureError("the server has another store than the copy here", value=", ".join(sorted(theirs)))
        return {name: file.size for name, file in self._files.items()}

    def prefetch(self) -> None:
        """All that is missing, several files at once."""
        wanted = missing(self.contents(), self._root)
        download(self._client, [self._files[name] for name in wanted], self._partial, progress=self._progress)

    def fetch(self, name: str, target: Path) -> int | None:
        """Put a file where the store wants it; what was fetched before does not travel again."""
        file = self._files[name]
        path = download(self._client, [file], self._partial)[file.sha256]
        shutil.move(path, target)
        return None


def _pointers(log: bytes, told: bytes) -> Pointers:
    try:
        return Pointers(log=log.decode(), channels=told.decode())
    except UnicodeDecodeError as error:
        raise DamagedRelease("the server's log is no text", value=LOG) from error


def _check_signed(root: Path, theirs: Pointers, home: Path) -> None:
    """Refuse what nobody with the keys signed; all files are here, and nothing points at them yet.

    Raises:
        SignatureError: what, and why.
    """
    signed = signed_store(root)
    known = known_here(home, root)
    if signed is None and known:
        raise _refused(
            "the store was signed when this machine saw it last, and no longer is", forget_hint(home, known[0])
        )
    if signed is None:
        return
    reader = reader_of(root, signed, home)
    for line in theirs.lines:
        entry = facts.from_bytes(LogEntry, line)
        if entry.event in RELEASES and entry.digest is not None:
            what = reader.release(Manifest.from_bytes(read_blob(root, check_digest(entry.digest)))).what
            if what is not None:
                raise _refused(f"release {entry.version}: {what}")
    if theirs.channels:
        _check_channels(root, theirs, signed, home)


def _check_channels(root: Path, theirs: Pointers, signed: SignedStore, home: Path) -> None:
    data, lines = theirs.channels.encode(), tuple(digest_bytes(line) for line in theirs.lines)
    what = reader_of(root, signed, home).told(data, lines).what
    if what is not None:
        raise _refused(f"the channels: {what}")
    known, now = recall(home, signed.id, root), facts.from_bytes(Channels, data)
    if known is None:
        return
    if now.generation < known.generation:
        seen = f"the channels are at generation {now.generation}, and this machine has seen {known.generation}"
        raise _refused(seen, forget_hint(home, known))
    if now.generation == known.generation and digest_bytes(data) != known.channels:
        raise _refused(f"this machine has seen other channels of generation {now.generation}", forget_hint(home, known))


def _refused(what: str, hint: str = "ask the operator what happened; nothing here was changed") -> SignatureError:
    return SignatureError(what, rule="releases and channels are signed, and never go back", hint=hint)
