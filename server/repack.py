"""Pack releases of whole models: every eighth by itself, the others as what differs from the one before. Adapters stay.

Example::

    planned = to_pack(store)                               # reads only
    with store.lock():
        repack(store, planned)                             # a raw file goes when its packed form was decoded and compared
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedrelease.errors import DamagedRelease
from fedrelease.files import sync_folder
from fedrelease.manifest import FileEntry
from fedrelease.server import layout
from fedrelease.server.blobs import blob_path, disk_errors
from fedrelease.server.packed import pack, packed_facts, packed_path
from fedrelease.server.release import Release
from fedrelease.server.retired import is_there
from fedrelease.server.store import Store
from fedrelease.update import StateFile

__all__ = ["EVERY", "PackStep", "Packed", "repack", "to_pack"]

EVERY = 8
"""Releases that stand on each other at most: so many are decoded to read the last of them."""
ROLES = ("adapter", "memory", "weights")


@dataclass(frozen=True, kw_only=True)
class PackStep:
    """One raw blob to pack: the file of the first release that has it, its size in bytes, and its keyframe if it has one."""

    version: str
    path: str
    sha256: str
    size: int
    keyframe: str | None


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What became of one file: its bytes on disk before and after; equal where packing did not pay and the raw file stayed."""

    step: PackStep
    before: int
    after: int


def to_pack(store: Store) -> tuple[PackStep, ...]:
    """The raw blobs of full-weight releases, each after its keyframe. Versions decide, so it is always the same.

    Raises:
        DamagedRelease: a manifest cannot be read.
    """
    steps: dict[str, PackStep] = {}
    series: dict[str, list[PackStep]] = {}
    for release in store.releases():
        for file in _large_files(release):
            if file.sha256 not in steps and is_there(store.folder, file.sha256):  # nothing stands on what was retired
                line = series.setdefault(file.path, [])
                step = _step(store, release.version, file, line)
                line.append(step)
                steps[file.sha256] = step
    return tuple(step for step in steps.values() if store.blob_path(step.sha256).is_file())


def repack(store: Store, steps: Sequence[PackStep]) -> Iterator[Packed]:
    """Do them one by one, the last first: keyframes are raw while they are needed. The caller holds the store's lock.

    Guarantees: at any instant each blob is there raw, or packed and decoded once to the bytes of its name. Doing it again after a
    kill goes on.

    Raises:
        DamagedRelease: a blob is not what was released; nothing of it was removed.
        StoreError: the disk refuses.
    """
    if steps:
        with disk_errors(store.folder):
            layout.allow_packed(store.folder)
    for step in reversed(steps):
        with disk_errors(store.folder):
            yield Packed(step=step, before=step.size, after=_pack(store, step))


def _large_files(release: Release) -> Iterator[FileEntry]:
    if release.manifest.adapter.kind in ("full", "layers"):
        for file in release.manifest.files:
            if file.role in ROLES and file.path.endswith(".safetensors"):
                yield file


def _step(store: Store, version: str, file: FileEntry, line: Sequence[PackStep]) -> PackStep:
    """Against the one before, unless eight stand on each other or another model began, whose file has another size."""
    last = line[-1] if line else None
    fresh = last is None or last.size != file.size or _stands_on(store, last.sha256, line) >= EVERY - 1
    return PackStep(
        version=version,
        path=file.path,
        sha256=file.sha256,
        size=file.size,
        keyframe=None if fresh or last is None else last.sha256,
    )


def _stands_on(store: Store, sha256: str, line: Sequence[PackStep]) -> int:
    """How many are decoded before this one: as it was packed, or as it is to be."""
    planned, count = {step.sha256: step.keyframe for step in line}, 0
    frame = _keyframe(store, sha256, planned)
    while frame is not None and count < EVERY:
        frame, count = _keyframe(store, frame, planned), count + 1
    return count


def _keyframe(store: Store, sha256: str, planned: Mapping[str, str | None]) -> str | None:
    if store.blob_path(sha256).is_file() or not packed_path(store.folder, sha256).is_file():
        return planned.get(sha256)
    return packed_facts(store.folder, sha256).keyframe


def _pack(store: Store, step: PackStep) -> int:
    root, raw = store.folder, blob_path(store.folder, step.sha256)
    try:
        after = pack(root, step.sha256, keyframe=step.keyframe, width=_width(store, step))
    except DamagedRelease:
        packed_path(root, step.sha256).unlink(missing_ok=True)
        raise
    gone = packed_path(root, step.sha256) if after >= step.size else raw
    gone.unlink()
    sync_folder(gone.parent)
    return min(after, step.size)


def _width(store: Store, step: PackStep) -> int:
    """Bytes of a number in most of the file."""
    counts: dict[int, int] = {}
    for tensor in StateFile(store.blob_path(step.sha256)).values():
        counts[tensor.itemsize] = counts.get(tensor.itemsize, 0) + tensor.nbytes
    return max(counts, key=lambda width: counts[width]) if counts else 1
