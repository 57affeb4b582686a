"""Check a whole store, also what no release refers to, and mend what can be mended without losing anything.

Example::

    found = fsck(Store.open(Path("releases")))
    [(flaw.path, flaw.what, flaw.mend) for flaw in found.flaws]
    mend(store)                                            # then fsck again
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedrelease.errors import DamagedRelease, StoreBusy, StoreError
from fedrelease.files import digest_file
from fedrelease.server import intent, journal
from fedrelease.server.blobs import disk_errors
from fedrelease.server.lock import hold
from fedrelease.server.packed import content
from fedrelease.server.references import references
from fedrelease.server.release import versions
from fedrelease.server.retired import RetiredFiles
from fedrelease.server.store import Store
from fedrelease.server.verify import lines_wrong, verify

__all__ = ["Flaw", "Found", "fsck", "mend"]

FINISH, SWEEP, REBUILD, PROTECT = "finish it", "remove it", "write the line", "make it read-only"


@dataclass(frozen=True, kw_only=True)
class Flaw:
    """What is wrong with one file, and how ``--repair`` mends it; None where only a copy of the store can."""

    path: str
    what: str
    mend: str | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a check found.

    Attributes:
        checked: files that were read to their end.
        head: the newest release; None in an empty store.
        loose, loose_bytes: whole blobs that nothing refers to, which is no flaw: ``gc`` sweeps them.
        under_way: somebody is writing, so that what a writer leaves for a moment was not looked for.
        retired: files that are gone by the rules of retention, which is no flaw either.
    """

    checked: int
    head: str | None
    flaws: tuple[Flaw, ...]
    loose: int
    loose_bytes: int
    under_way: bool
    retired: tuple[RetiredFiles, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.flaws


def fsck(store: Store) -> Found:
    """Check every file of a store; change nothing. Damage is told, never raised."""
    root = store.folder
    report = verify(store)
    idle = _is_idle(root)
    unlogged = {lines_wrong(version, 0) for version in versions(root)} if idle else set()
    flaws = [
        Flaw(path=problem.path, what=problem.what, mend=REBUILD if problem.what in unlogged else None)
        for problem in report.problems
    ]
    loose = _loose(root)
    for path in loose:
        flaws += [Flaw(path=_below(root, path), what=what) for what in _blob_flaw(root, path)]
    flaws += [*_head_flaws(root), *_writable(root), *(_interrupted(root) if idle else ())]
    known = versions(root)
    return Found(
        checked=report.checked + len(loose),
        head=known[-1] if known else None,
        flaws=tuple(flaws),
        loose=len(loose),
        loose_bytes=sum(path.stat().st_size for path in loose),
        under_way=not idle,
        retired=report.retired,
    )


def mend(store: Store) -> None:
    """Finish what was interrupted, write lost lines of the log, remove temporary files, make files read-only again.

    Guarantees: no byte of a release, a generation or an attachment changes or goes.

    Raises:
        StoreBusy: somebody is writing.
        StoreError: the disk refuses.
        DamagedRelease: what was interrupted cannot be finished, since what it builds on is damaged.
    """
    with store.lock(), disk_errors(store.folder):  # which finishes, rebuilds and sweeps before it lets anybody in
        for flaw in _writable(store.folder):
            (store.folder / flaw.path).chmod(0o444)


def _is_idle(root: Path) -> bool:
    try:
        with hold(root / ".lock", of=root):
            return True
    except StoreBusy:
        return False
    except StoreError:  # a folder that may only be read has no writer here
        return True


def _loose(root: Path) -> list[Path]:
    """Blobs that nothing refers to, in either form; none where damage leaves that open."""
    try:
        kept = references(root)
    except (DamagedRelease, OSError):
        return []
    rooms = (root / "blobs" / "sha256", root / "packed" / "sha256")
    return [path for room in rooms if room.is_dir() for path in sorted(room.iterdir()) if path.name not in kept]


def _blob_flaw(root: Path, path: Path) -> Iterator[str]:
    try:
        with content(root, path.name, packed="packed" in path.parts[-3:]) as found:
            if digest_file(found) != path.name:
                yield "it does not have the bytes of its name; no release refers to it"
    except OSError as error:
        yield f"it cannot be read: {error.strerror}"
    except StoreError as error:
        yield error.what


def _head_flaws(root: Path) -> Iterator[Flaw]:
    """The newest release is the one that the log told of last."""
    logged = [entry.version for entry in journal.readable(root / journal.FILE) if entry.event in journal.RELEASES]
    known = versions(root)
    if known and known[-1] in logged and logged[-1] != known[-1]:
        yield Flaw(path="versions", what=f"{known[-1]} is the newest, and the log told of {logged[-1]} last")


def _writable(root: Path) -> Iterator[Flaw]:
    """What must never change lies there so that nobody changes it by accident."""
    for pattern in ("blobs/sha256/*", "packed/sha256/*", "versions/*.json", "attach/*/*"):
        for path in sorted(root.glob(pattern)):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) and mode & 0o222:
                what = f"it can be written (mode {stat.S_IMODE(mode):04o}), and it never changes"
                yield Flaw(path=_below(root, path), what=what, mend=PROTECT)


def _interrupted(root: Path) -> Iterator[Flaw]:
    if (root / intent.FILE).exists():
        yield Flaw(path=intent.FILE, what="a publish or a move was interrupted", mend=FINISH)
    tmp = root / "tmp"
    for path in sorted((*(tmp.iterdir() if tmp.is_dir() else ()), *root.glob(".*.tmp"))):
        yield Flaw(path=_below(root, path), what="a write was interrupted", mend=SWEEP)


def _below(root: Path, path: Path) -> str:
    return os.path.relpath(path, root).replace(os.sep, "/")
