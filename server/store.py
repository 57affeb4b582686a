"""The release store: a folder in which a round becomes a release, whole or not at all.

::

    store.json               {"layout":1}
    blobs/sha256/<hex>       every byte of every release, manifests too; read-only
    versions/<version>.json  {"digest":"sha256:..."}; its hard link is the commit point
    channels.json            all pointers; the generations before it are blobs
    attach/<hex>/<kind>.<hex8>   what came later about a release: signatures, reports ...
    keys/                    public keys, in a store that is signed
    log.jsonl  tmp/  .lock
    publishing.json          the log line and the channels of a move under way, so that a crash can be finished

Example::

    store = Store.create_or_open(Path("releases"))
    with store.lock():
        store.put_blob(adapter_bytes)
        store.publish(manifest, entry_for(manifest, channels=("stable",), time=utc_now(), seconds=12.5))
    store.head().version
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import final

from fedrelease import facts
from fedrelease.errors import StoreError
from fedrelease.files import sync_folder
from fedrelease.manifest import Manifest, check_digest, version_key
from fedrelease.server import blobs, channels, intent, journal, layout
from fedrelease.server.attachments import Attachment, attachments, put_attachment
from fedrelease.server.blobs import disk_errors
from fedrelease.server.channels import Channels, FirstPointed, Move, Pointer
from fedrelease.server.intent import Intent
from fedrelease.server.journal import LogEntry
from fedrelease.server.lock import hold
from fedrelease.server.release import Committed, Release, committed_digest, load, resolve, version_path, versions
from fedrelease.server.signing import Seal, Signer
from fedrelease.server.written_log import WrittenLog

__all__ = ["Store"]


@final
class Store:
    """A folder of releases. Reading needs no lock; writing happens inside ``with store.lock():``.

    Guarantees:
        After a crash at any instant, the next ``lock()`` leaves one head, every release in the log exactly once,
        the channels where that log says, and no temporary file.
        A publish that raised left either no release, or one that the next ``lock()`` or ``publish`` finishes.
    """

    def __init__(self, folder: Path, signer: Signer | None = None) -> None:
        """Use :meth:`open` or :meth:`create_or_open`, which check the folder."""
        self.folder = folder
        self._writer: int | None = None
        self._seal = Seal(folder, signer)
        self._written = WrittenLog(self._log)
        self._first = dict[str, FirstPointed]()

    @classmethod
    def create_or_open(cls, folder: Path, *, signer: Signer | None = None) -> "Store":
        """The store in ``folder``; made when the folder is missing or empty.

        ``signer`` signs what is written; a store that was signed once takes nothing that is not.

        Raises:
            StoreError: the folder holds something else, or a layout that this version cannot read.
        """
        with disk_errors(folder):
            layout.create(folder)
        return cls.open(folder, signer=signer)

    @classmethod
    def open(cls, folder: Path, *, signer: Signer | None = None) -> "Store":
        """The store in ``folder``, for reading until its lock is taken; reading needs no ``signer``.

        Raises:
            StoreError: there is none, it is damaged, or its layout is newer.
        """
        layout.check(folder)
        return cls(folder, signer)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer while the block runs; what a crash left behind is finished first.

        Raises:
            StoreBusy: another process, or another part of this one, is the writer.
            SignatureError: the store is signed, and somebody without its keys changed it.
        """
        with hold(self.folder / ".lock"):
            self._writer = os.getpid()
            try:
                self.recover()
                yield
                self._seal.end()
            finally:
                self._writer = None

    def put_blob(self, data: bytes | Path) -> str:
        """Keep bytes or a file's content; return the sha256. Equal bytes are kept once."""
        self._require_lock()
        with disk_errors(self.folder):
            return blobs.put_blob(self.folder, data)

    def attach(self, digest: str, kind: str, data: bytes) -> Attachment:
        """Keep what came later about a release, or about whatever has this digest; ``kind`` is a word, such as gate-report.

        The same bytes again change nothing.
        """
        self._require_lock()
        with disk_errors(self.folder):
            return put_attachment(self.folder, digest, kind, data)

    def attachments(self, digest: str, kind: str | None = None) -> tuple[Attachment, ...]:
        """What was attached to a digest, oldest first."""
        return attachments(self.folder, digest, kind)

    def blob_path(self, sha256: str) -> Path:
        """Where the bytes with this sha256 lie, if the store has them."""
        return blobs.blob_path(self.folder, sha256)

    def publish(self, manifest: Manifest, entry: LogEntry, *, moves: bool = True) -> Release:
        """Commit a release whose files are blobs already, log it, and move its channels, if anything ``moves``.

        ``candidate`` and the channels of ``entry`` move when the verdict is ``released``, but for those that are paused: a held
        release keeps its number and gets no channel. Publishing the same manifest again changes nothing.

        Raises:
            StoreError: a blob or a parent is missing, the version exists with another digest or is below the head,
                the entry tells of another release, or the disk refuses.
        """
        self._require_lock()
        with disk_errors(self.folder):
            if (self.folder / intent.FILE).exists():  # an earlier publish in this very process failed half-way
                self.recover()
            if not version_path(self.folder, manifest.version).exists():
                self._commit(manifest, _checked(manifest, entry), moves=moves)
            elif committed_digest(self.folder, manifest.version) != manifest.digest:
                hint = "a version never changes: publish under the next number"
                raise StoreError("the version exists with another digest", value=manifest.version, hint=hint)
        return load(self.folder, manifest.version)

    def move(self, moved: Channels, entry: LogEntry) -> None:
        """Replace the channels, and log it: both, whatever happens in between.

        Raises:
            StoreError: ``moved`` does not follow from what is there, or the disk refuses.
        """
        self._require_lock()
        with disk_errors(self.folder):
            if (self.folder / intent.FILE).exists():
                self.recover()
            meant = Intent(entry=replace(entry, generation=moved.generation), moved=moved)
            self._seal.intent(meant)
            intent.announce(self.folder, meant)
            intent.fulfil(self.folder, meant, self._written)

    def record_failure(self, entry: LogEntry) -> None:
        """Log a round that failed: its only trace."""
        self._require_lock()
        if entry.event != "round-failed":
            raise StoreError("only failed rounds are logged without a release", value=entry.event)
        with disk_errors(self.folder):
            self._written.append(entry)

    def recover(self) -> None:
        """Finish what a crash interrupted; :meth:`lock` has done so already. Doing it again changes nothing."""
        self._require_lock()
        with disk_errors(self.folder):
            layout.prepare(self.folder)
            self._seal.begin()
            self._written = WrittenLog(self._log)  # the lock may be another one than before
            intent.settle(self.folder, self._written, check=self._seal.check_intent)
            self._log_unlogged()
            self._seal.settle()

    def head(self) -> Release | None:
        """The release with the highest version; None in an empty store."""
        known = versions(self.folder)
        return load(self.folder, known[-1]) if known else None

    def releases(self) -> tuple[Release, ...]:
        """All releases, lowest version first."""
        return tuple(load(self.folder, version) for version in versions(self.folder))

    def find(self, ref: str) -> Release:
        """A release by version, channel or digest (at least 8 digits of it).

        Raises:
            ReleaseNotFound: nothing is called so; the hint lists what there is.
        """
        return load(self.folder, resolve(self.folder, ref))

    def channels(self) -> Channels:
        """Where the channels point now."""
        return channels.read(self.folder)

    def first_pointed(self, channel: str) -> Pointer | None:
        """The first release that a channel ever pointed at; asked again, only what was moved since is read."""
        self._first[channel] = channels.first_pointed(self.folder, channel, self._first.get(channel, FirstPointed()))
        return self._first[channel].pointer

    def history(self) -> tuple[LogEntry, ...]:
        """The log, oldest entry first."""
        return journal.read(self._log)

    @property
    def _log(self) -> Path:
        return self.folder / journal.FILE

    def _require_lock(self) -> None:
        if self._writer != os.getpid():
            raise StoreError(
                "the store is not locked", value=str(self.folder), hint="write inside `with store.lock():`"
            )

    def _commit(self, manifest: Manifest, entry: LogEntry, *, moves: bool) -> None:
        self._check_publishable(manifest)
        blobs.put_blob(self.folder, manifest.to_bytes())
        sync_folder(self.folder / "blobs" / "sha256")  # a blob that a killed run left may not be durable yet
        meant = self._meant(manifest, entry, moves=moves)
        self._seal.release(manifest, meant.entry.channels)
        self._seal.intent(meant)
        intent.announce(self.folder, meant)
        committed = facts.to_bytes(Committed(digest=manifest.digest))
        blobs.link_durably(self.folder, version_path(self.folder, manifest.version), committed)
        intent.fulfil(self.folder, meant, self._written)

    def _meant(self, manifest: Manifest, entry: LogEntry, *, moves: bool) -> Intent:
        """The line, and the channels that really move."""
        now = self.channels()
        wanted = (
            {"candidate", *entry.channels} - {*now.paused} if moves and manifest.verdict == "released" else set[str]()
        )
        pointer = Pointer(version=manifest.version, digest=manifest.digest)
        actor = entry.actor or f"federation {manifest.federation.name}"
        moved = now.then(dict.fromkeys(wanted, pointer), Move(verb="publish", actor=actor, time=entry.time))
        line = replace(entry, channels=tuple(sorted(wanted)), generation=moved.generation)
        return Intent(entry=line, moved=None if moved is now else moved)

    def _check_publishable(self, manifest: Manifest) -> None:
        for file in manifest.files:
            path = self.blob_path(file.sha256)
            if not path.is_file() or path.stat().st_size != file.size:
                raise StoreError("a file of the release is not in the store", value=file.path, hint="put_blob it first")
        for parent in manifest.parents:
            if not self.blob_path(check_digest(parent)).is_file():
                raise StoreError("a parent of the release is not in the store", value=parent)
        newest = self._written.newest  # the log tells of every release, or the lock would not have been given
        if newest is not None and version_key(manifest.version) < version_key(newest):
            raise StoreError("versions only rise", value=manifest.version, rule=f"above the head, {newest}")

    def _log_unlogged(self) -> None:
        """Rebuild the lines of releases that the log does not know; what a round took is lost with its line."""
        for version in sorted(set(versions(self.folder)) - self._written.releases, key=version_key):
            pointing = self.channels().pointing_at(version)
            self._seal.check_release(version)
            manifest = load(self.folder, version).manifest
            self._written.append(journal.entry_for(manifest, channels=pointing, time=journal.utc_now()))


def _checked(manifest: Manifest, entry: LogEntry) -> LogEntry:
    told = (entry.version, entry.digest, entry.event, entry.phase, entry.round)
    if told != (manifest.version, manifest.digest, manifest.verdict, manifest.phase, manifest.round):
        raise StoreError("the log entry tells of another release", value=told, hint="make it with journal.entry_for")
    for name in entry.channels:
        channels.check_channel(name)
    return entry
