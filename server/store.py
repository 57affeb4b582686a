"""The release store: a folder in which a round becomes a release, whole or not at all.

::

    store.json               {"layout":1}
    blobs/sha256/<hex>       every byte of every release, manifests too; read-only
    versions/<version>.json  {"digest":"sha256:..."}; its hard link is the commit point
    channels.json  log.jsonl  tmp/  .lock
    attach/<hex>/<kind>.<hex8>   what came later about a release: signatures, reports ...
    keys/                    public keys, in a store that is signed
    publishing.json          the log line of a publish under way, so that a crash can be finished

Example::

    store = Store.create_or_open(Path("releases"))
    with store.lock():
        store.put_blob(adapter_bytes)
        store.publish(manifest, entry_for(manifest, channels=("stable",), time=utc_now(), seconds=12.5))
    store.head().version
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import final

from fedrelease import facts
from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.files import sync_folder, write_durably
from fedrelease.manifest import Manifest, check_digest, version_key
from fedrelease.server import blobs, channels, journal, layout
from fedrelease.server.attachments import Attachment, attachments, put_attachment
from fedrelease.server.blobs import disk_errors
from fedrelease.server.channels import Channels, Pointer
from fedrelease.server.journal import LogEntry
from fedrelease.server.lock import hold
from fedrelease.server.release import Committed, Release, committed_digest, load, resolve, version_path, versions
from fedrelease.server.signing import Seal, Signer

__all__ = ["Store"]


@final
class Store:
    """A folder of releases. Reading needs no lock; writing happens inside ``with store.lock():``.

    Guarantees:
        After a crash at any instant, the next ``lock()`` leaves one head, every release in the log exactly once,
        ``candidate`` at the head, and no temporary file.
        A publish that raised left either no release, or one that the next ``lock()`` or ``publish`` finishes.
    """

    def __init__(self, folder: Path, signer: Signer | None = None) -> None:
        """Use :meth:`open` or :meth:`create_or_open`, which check the folder."""
        self.folder = folder
        self._writer: int | None = None
        self._seal = Seal(folder, signer)

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

    def publish(self, manifest: Manifest, entry: LogEntry) -> Release:
        """Commit a release whose files are blobs already, log it, and move its channels.

        ``candidate`` moves to every new head; the other channels of ``entry`` only when the verdict is ``released``.
        Publishing the same manifest again changes nothing.

        Raises:
            StoreError: a blob or a parent is missing, the version exists with another digest or is below the head,
                the entry tells of another release, or the disk refuses.
        """
        self._require_lock()
        with disk_errors(self.folder):
            if self._intent.exists():  # an earlier publish in this very process failed half-way
                self.recover()
            if not version_path(self.folder, manifest.version).exists():
                self._commit(manifest, _moving(manifest, entry))
            elif committed_digest(self.folder, manifest.version) != manifest.digest:
                hint = "a version never changes: publish under the next number"
                raise StoreError("the version exists with another digest", value=manifest.version, hint=hint)
        return load(self.folder, manifest.version)

    def record_failure(self, entry: LogEntry) -> None:
        """Log a round that failed: its only trace."""
        self._require_lock()
        if entry.event != "round-failed":
            raise StoreError("only failed rounds are logged without a release", value=entry.event)
        with disk_errors(self.folder):
            journal.append(self._log, entry)

    def recover(self) -> None:
        """Finish what a crash interrupted; :meth:`lock` has done so already. Doing it again changes nothing."""
        self._require_lock()
        with disk_errors(self.folder):
            layout.prepare(self.folder)
            intent = self._read_intent()
            self._seal.begin(coming=intent.version if intent else None)
            self._finish_intent(intent)
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
        return channels.read(self.folder / "channels.json")

    def history(self) -> tuple[LogEntry, ...]:
        """The log, oldest entry first."""
        return journal.read(self._log)

    @property
    def _log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def _intent(self) -> Path:
        return self.folder / "publishing.json"

    def _require_lock(self) -> None:
        if self._writer != os.getpid():
            raise StoreError(
                "the store is not locked", value=str(self.folder), hint="write inside `with store.lock():`"
            )

    def _commit(self, manifest: Manifest, entry: LogEntry) -> None:
        self._check_publishable(manifest)
        blobs.put_blob(self.folder, manifest.to_bytes())
        self._seal.release(manifest, entry.channels)
        sync_folder(self.folder / "blobs" / "sha256")  # a blob that a killed run left may not be durable yet
        write_durably(self._intent, facts.to_bytes(entry))
        committed = facts.to_bytes(Committed(digest=manifest.digest))
        blobs.link_durably(self.folder, version_path(self.folder, manifest.version), committed)
        self._complete(entry)

    def _check_publishable(self, manifest: Manifest) -> None:
        for file in manifest.files:
            path = self.blob_path(file.sha256)
            if not path.is_file() or path.stat().st_size != file.size:
                raise StoreError("a file of the release is not in the store", value=file.path, hint="put_blob it first")
        for parent in manifest.parents:
            if not self.blob_path(check_digest(parent)).is_file():
                raise StoreError("a parent of the release is not in the store", value=parent)
        known = versions(self.folder)
        if known and version_key(manifest.version) < version_key(known[-1]):
            raise StoreError("versions only rise", value=manifest.version, rule=f"above the head, {known[-1]}")

    def _complete(self, entry: LogEntry) -> None:
        """Everything after the commit point; every step is safe to do twice."""
        sync_folder(self.folder / "versions")
        if entry.version not in self._logged():
            journal.append(self._log, entry)
        self._point(entry.channels, entry.version)
        self._intent.unlink(missing_ok=True)
        sync_folder(self.folder)  # or a power cut could bring the intent back after a later rollback

    def _read_intent(self) -> LogEntry | None:
        with suppress(FileNotFoundError, DamagedRelease):
            return facts.from_bytes(LogEntry, self._intent.read_bytes())
        return None

    def _finish_intent(self, entry: LogEntry | None) -> None:
        """The intent's release exists: complete it. It does not: the publish never happened."""
        if entry is not None and self._has(entry) and self._seal.still_to_do(entry):
            self._complete(entry)
        self._intent.unlink(missing_ok=True)

    def _has(self, entry: LogEntry) -> bool:
        exists = version_path(self.folder, entry.version).exists()
        return exists and committed_digest(self.folder, entry.version) == entry.digest

    def _log_unlogged(self) -> None:
        """Rebuild the lines of releases that the log does not know; what a round took is lost with its line."""
        known = versions(self.folder)
        if known:
            self._point(("candidate",), known[-1])
        for version in sorted(set(known) - self._logged(), key=version_key):
            pointing = self.channels().pointing_at(version)
            self._seal.check_release(version)
            manifest = load(self.folder, version).manifest
            journal.append(self._log, journal.entry_for(manifest, channels=pointing, time=journal.utc_now()))

    def _logged(self) -> set[str]:
        return {entry.version for entry in self.history() if entry.digest is not None}

    def _point(self, names: tuple[str, ...], version: str) -> None:
        self._seal.check_release(version)
        pointer = Pointer(version=version, digest=committed_digest(self.folder, version))
        channels.move(self.folder / "channels.json", dict.fromkeys(names, pointer), seal=self._seal.generation)


def _moving(manifest: Manifest, entry: LogEntry) -> LogEntry:
    """The entry with the channels that really move."""
    told = (entry.version, entry.digest, entry.event, entry.phase, entry.round)
    if told != (manifest.version, manifest.digest, manifest.verdict, manifest.phase, manifest.round):
        raise StoreError("the log entry tells of another release", value=told, hint="make it with journal.entry_for")
    for name in entry.channels:
        channels.check_channel(name)
    wanted = entry.channels if manifest.verdict == "released" else ()
    return replace(entry, channels=tuple(sorted({"candidate", *wanted})))
