"""Bring a store in a folder up to another one: its files first, then line by line what its log tells, as if it happened here.

Example::

    with store.lock():
        replay(FolderSource(Path("elsewhere")), store, told="elsewhere")
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from fedrelease import facts
from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.files import write_durably
from fedrelease.manifest import Manifest, check_digest
from fedrelease.server import channels, intent, journal, layout
from fedrelease.server.blobs import disk_errors, link_durably, move_durably, read_blob, temporary_file
from fedrelease.server.channels import Channels, Move
from fedrelease.server.contents import (
    PLAIN,
    Pointers,
    Source,
    check_name,
    check_received,
    contents,
    lines_ahead,
    pointers_of,
)
from fedrelease.server.intent import Intent
from fedrelease.server.journal import FIRST, LogEntry
from fedrelease.server.release import Committed, version_path
from fedrelease.server.retired import file_record, is_there, records_in
from fedrelease.server.store import Store
from fedrelease.server.written_log import WrittenLog

__all__ = ["Copied", "FolderSource", "missing", "replay", "to_travel"]


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What travelled: files, bytes, lines of the log; and the generation that the receiver stands at."""

    files: int
    size: int
    lines: int
    generation: int


@final
@dataclass(frozen=True)
class FolderSource:
    """A store in a folder."""

    root: Path

    def pointers(self) -> Pointers | None:
        """What it says now."""
        return pointers_of(self.root)

    def contents(self) -> dict[str, int]:
        """What its releases need."""
        plain = {name: (self.root / name).stat().st_size for name in PLAIN if (self.root / name).is_file()}
        return contents(self.root) | plain

    def fetch(self, name: str, target: Path) -> int | None:
        """Copy a file."""
        shutil.copyfile(self.root / name, target)
        return (self.root / name).stat().st_mtime_ns


def missing(wanted: Mapping[str, int], root: Path) -> dict[str, int]:
    """What the store in ``root`` lacks; a blob that it has in another form is not missing, keys and plain files may change."""
    return {name: size for name, size in wanted.items() if not _has(root, check_name(name), size)}


def replay(
    source: Source, store: Store, *, told: str, check: Callable[[Pointers], None] = lambda pointers: None
) -> Copied:
    """Bring the store up to the source, which ``told`` names in refusals. The caller holds the store's lock.

    ``check`` may refuse, by raising, what the source says, when all files are here and nothing points at them yet.

    Guarantees: after a kill at any instant the store is whole, and stands where the source stood once; doing it again goes on.

    Raises:
        StoreError: the source is none, or the two went different ways.
        DamagedRelease: what came is not what its name promises, or the source lacks something.
    """
    root = store.folder
    theirs, ours = source.pointers(), pointers_of(root)
    if theirs is None:
        raise StoreError("nothing was pushed there yet", value=told, hint="fedrelease push")
    lines = lines_ahead(theirs, ours, us=told, them=str(root))
    wanted = to_travel(missing(source.contents(), root), forward=bool(lines))
    with disk_errors(root):
        for name in sorted(wanted, key=lambda name: (name in PLAIN, name)):
            if name not in PLAIN:
                _take(source, name, root)
        check(theirs)
        chain = _generations(root, theirs) if lines else {}
        log, records = WrittenLog(root / journal.FILE), records_in(chain.values())
        for line in lines:
            _repeat(root, facts.from_bytes(LogEntry, line), chain, log, records)
        _catch_up(root, chain)
        for name in PLAIN:
            if name in wanted:
                _take(source, name, root)
    after = pointers_of(root)
    if lines and after != theirs:
        raise DamagedRelease("the copy does not say what its source says", value=told, hint="fedrelease verify")
    return Copied(files=len(wanted), size=sum(wanted.values()), lines=len(lines), generation=after.generation)


def to_travel(names: Mapping[str, int], *, forward: bool) -> dict[str, int]:
    """Of what is missing: all when the log goes forward, else only what is named by a digest, such as a later attachment."""
    by_digest = ("attach/", "blobs/", "packed/")
    return {name: size for name, size in names.items() if forward or name.startswith(by_digest)}


def _has(root: Path, name: str, size: int) -> bool:
    room, sha256 = name.partition("/")[0], name.rpartition("/")[2]
    if room in ("blobs", "packed"):
        return is_there(root, sha256)
    path = root / name
    return path.is_file() and (room == "attach" or path.stat().st_size == size)


def _take(source: Source, name: str, root: Path) -> None:
    """One file, whole or not at all, read-only; attachments keep their times, which are their order."""
    path = root / check_name(name)
    with temporary_file(root) as fetched:
        time_ns = source.fetch(name, fetched)
        check_received(name, fetched)
        if name in PLAIN or name.startswith("keys/"):
            write_durably(path, fetched.read_bytes())
            return
        if name.startswith("packed/"):
            layout.allow_packed(root)
        move_durably(fetched, path, time_ns=time_ns)


def _generations(root: Path, theirs: Pointers) -> dict[int, Channels]:
    """The source's generations that the store does not have yet, by number; the older ones came as blobs.

    Raises:
        DamagedRelease: one is missing or does not follow.
    """
    found = dict[int, Channels]()
    now = facts.from_bytes(Channels, theirs.channels.encode()) if theirs.channels else Channels()
    here = channels.read(root).generation
    while now.generation > here:
        found[now.generation] = now
        if now.previous is None:
            break
        now = facts.from_bytes(Channels, read_blob(root, now.previous))
    return found


def _repeat(
    root: Path, entry: LogEntry, chain: Mapping[int, Channels], log: WrittenLog, records: Sequence[Move]
) -> None:
    """Do here what the line tells: commit the release, write the line, move the channels, as the first writer did."""
    plain = replace(entry, previous=FIRST)
    moved = chain.get(channels.read(root).generation + 1)
    meant = Intent(entry=plain, moved=moved if moved and moved.generation == entry.generation else None)
    if entry.event == "round-failed":
        log.append(plain)
        return
    if meant.moved is not None and meant.moved.move is not None and meant.moved.move.retired is not None:
        layout.allow_retired(root)
    intent.announce(root, meant)
    if entry.event in journal.RELEASES and entry.digest is not None:
        _check_whole(root, entry.digest, records)
        if not version_path(root, entry.version).exists():
            committed = facts.to_bytes(Committed(digest=entry.digest))
            link_durably(root, version_path(root, entry.version), committed)
    intent.fulfil(root, meant, log)


def _check_whole(root: Path, digest: str, records: Sequence[Move]) -> None:
    """Every file came, but for those that the source retired since."""
    manifest = Manifest.from_bytes(read_blob(root, check_digest(digest)))
    for file in manifest.files:
        if not is_there(root, file.sha256) and file_record(records, manifest.version, file.sha256) is None:
            raise DamagedRelease(f"{file.path} of {manifest.version} did not come", value=file.sha256)


def _catch_up(root: Path, chain: Mapping[int, Channels]) -> None:
    """Generations that no line tells of, as after a rebuilt log."""
    for generation in sorted(chain):
        if generation == channels.read(root).generation + 1:
            channels.write(root, chain[generation])
