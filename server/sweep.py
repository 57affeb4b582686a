"""Sweep what nothing refers to any more: leftovers of kills, of refused rounds, of finished rounds' spools.

Example::

    planned = sweepable(store, grace_s=24 * 3600, now=time.time())     # reads only
    with store.lock():
        sweep(store, grace_s=24 * 3600, now=time.time())               # the same, gone
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedrelease.errors import DamagedRelease, ExperimentError, ReleaseNotFound, StoreError
from fedrelease.files import sync_folder
from fedrelease.server.blobs import disk_errors
from fedrelease.server.references import references
from fedrelease.server.release import experiment_of, load, versions
from fedrelease.server.store import Store
from fedrelease.update import forget_open_files

__all__ = ["Leftover", "Sweep", "grace_seconds", "keeps_updates", "sweep", "sweepable"]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_HEX = re.compile("[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """Something that nothing refers to: what it is, its path below the store, and its bytes on disk."""

    kind: str
    path: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What goes, and how many more would if they were older."""

    leftovers: tuple[Leftover, ...]
    young: int

    @property
    def size(self) -> int:
        """Bytes that become free."""
        return sum(leftover.size for leftover in self.leftovers)


def grace_seconds(text: str) -> float:
    """Seconds in ``90s``, ``30m``, ``24h`` or ``7d``.

    Raises:
        StoreError: ``text`` is none of these.
    """
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text, re.ASCII)
    if found is None:
        raise StoreError("no length of time", value=text, rule="a whole number and s, m, h or d", hint="--grace 24h")
    return float(found[1]) * UNITS[found[2]]


def sweepable(store: Store, *, grace_s: float, now: float) -> Sweep:
    """What a sweep at ``now`` (seconds since 1970) would remove. Needs no lock.

    Guarantees: nothing that a release, a generation of the channels, or an attachment of these refers to; nothing of a round in
    progress; no spool of a round whose experiment keeps its updates, or of which nobody knows.

    Raises:
        DamagedRelease: what cannot be read may refer to anything, so that nothing is swept.
    """
    found = [(leftover, _age(store.folder / leftover.path)) for leftover in _leftovers(store.folder)]
    old = tuple(one for one, since in found if one.kind == "temporary file" or since <= now - grace_s)
    return Sweep(leftovers=old, young=len(found) - len(old))


def sweep(store: Store, *, grace_s: float, now: float) -> Sweep:
    """Remove what :func:`sweepable` finds. The caller holds the store's lock.

    A kill in between leaves the rest for the next time.
    """
    found = sweepable(store, grace_s=grace_s, now=now)
    forget_open_files()  # of spools
    with disk_errors(store.folder):
        for leftover in found.leftovers:
            _remove(store.folder / leftover.path)
    return found


def _leftovers(root: Path) -> Iterator[Leftover]:
    """Paths are listed before what they are compared with is read: a publish that ends in between keeps what is its own."""
    rooms = [("attachment", path) for path in _named(root / "attach")]
    rooms += [("blob", path) for room in ("blobs", "packed") for path in _named(root / room / "sha256")]
    kept = references(root)
    for kind, path in rooms:
        if path.name not in kept:
            yield from (_leftover(root, kind, file) for file in (sorted(path.iterdir()) if path.is_dir() else [path]))
    yield from (_leftover(root, "spool", path) for path in _finished_spools(root))
    temporary = (*_listed(root / "tmp"), *root.glob(".*.tmp"))
    yield from (_leftover(root, "temporary file", path) for path in sorted(temporary))


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _named(folder: Path) -> list[Path]:
    """What is called by a sha256; a stranger's file is left alone."""
    return [path for path in _listed(folder) if _HEX.fullmatch(path.name)]


def _finished_spools(root: Path) -> Iterator[Path]:
    known = versions(root)
    return (path for path in _listed(root / "spool") if path.name in known and not keeps_updates(root, path.name))


def keeps_updates(root: Path, version: str) -> bool:
    """What the release's own experiment says; who does not know keeps them."""
    try:
        return experiment_of(load(root, version)).federation.keep_updates
    except (ExperimentError, ReleaseNotFound, DamagedRelease, UnicodeDecodeError):
        return True


def _leftover(root: Path, kind: str, path: Path) -> Leftover:
    return Leftover(kind=kind, path=path.relative_to(root).as_posix(), size=sum(file.st_size for file in _status(path)))


def _age(path: Path) -> float:
    """When it last changed, or the youngest file in it."""
    return max((file.st_mtime for file in _status(path)), default=0.0)


def _status(path: Path) -> list[os.stat_result]:
    """Of a file, or of all in a folder; what has gone meanwhile has none."""
    found = []
    for file in path.rglob("*") if path.is_dir() else (path,):
        with suppress(FileNotFoundError):
            found.append(file.stat())
    return found


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if path.parent.parent.name == "attach" and not any(path.parent.iterdir()):
        path.parent.rmdir()
        path = path.parent
    sync_folder(path.parent)
