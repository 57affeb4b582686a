"""Check every byte of a store against what was released, and say which file is wrong.

Example::

    report = verify(Store.open(Path("releases")))
    report.ok, report.checked                              # (True, 31)
    [problem.path for problem in report.problems]          # ['blobs/sha256/5e1f... (adapter.safetensors of 0.1.2)']
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias, final

import torch
from torch import Tensor

from fedrelease.errors import DamagedRelease, UpdateRefused
from fedrelease.files import digest_file
from fedrelease.manifest import FileEntry, Manifest, check_digest
from fedrelease.server import channels, journal
from fedrelease.server.blobs import blob_path, read_blob
from fedrelease.server.channels import Channels, Pointer
from fedrelease.server.intent import Intent, announced
from fedrelease.server.journal import LogEntry
from fedrelease.server.packed import content, packed_path
from fedrelease.server.release import committed_digest, resolve, version_path, versions
from fedrelease.server.retired import RetiredFiles, RetirementCheck
from fedrelease.server.signature_check import SignatureCheck
from fedrelease.server.store import Store
from fedrelease.update import StateFile

__all__ = ["Problem", "Report", "lines_wrong", "verify"]

Finding: TypeAlias = tuple[str, str | None]
"""A path that was looked at, and what is wrong there if anything is."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong with one file. ``path`` is below the store; a blob's says which file of which release it is."""

    path: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """How many files were looked at and what is wrong with them.

    ``signers`` are the fingerprints of the keys whose signatures were found right, by role; none in a store that nobody signs.
    ``retired``: files that are gone by the rules of retention, which is no problem.
    """

    checked: int
    problems: tuple[Problem, ...]
    signers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    retired: tuple[RetiredFiles, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problems


def verify(store: Store, ref: str | None = None, *, home: Path | None = None) -> Report:
    """Check one release, or all of them, and always the log, the channels and the keys. Needs no lock.

    ``home`` is the user's folder of keys, which knows whose keys this machine agreed to and what it has seen; None believes the
    store's own word about its keys.

    Guarantees: a changed byte in any file of a release, its manifest, its version file, what was attached to it, or an older
    generation of the channels is named, and so is a missing file, unless a generation of the channels tells that it was retired
    and no channel points at its release. In a signed store, so is whatever the holders of its keys did not sign. Damage is
    reported, never raised.

    Raises:
        ReleaseNotFound: ``ref`` names no release.
        SignatureError: what this machine knows of the store is damaged.
    """
    root, signatures, gone = store.folder, SignatureCheck(store.folder, home), RetirementCheck(store.folder)
    found: dict[str, list[str]] = {}
    for path, what in _findings(root, ref, signatures, gone):
        found.setdefault(path, []).extend([] if what is None or what in found.get(path, []) else [what])
    problems = tuple(Problem(path=path, what=what) for path, whats in found.items() for what in whats)
    return Report(checked=len(found), problems=problems, signers=signatures.signers(), retired=tuple(gone.told))


def _findings(root: Path, ref: str | None, signatures: SignatureCheck, gone: RetirementCheck) -> Iterator[Finding]:
    try:
        chosen = versions(root) if ref is None else (resolve(root, ref),)
    except DamagedRelease as error:
        yield str(error.value), error.what
        chosen = versions(root)
    meant = announced(root)  # before the log is read: a publish that ends in between is then in the log
    links = tuple(journal.links(root / journal.FILE))
    log = tuple(entry for entry, _ in links if entry is not None)
    coming = meant.entry.version if meant else None
    look = _Look(root=root, chosen=chosen, log=log, coming=coming, signatures=signatures, gone=gone)
    yield from signatures.store()
    for version in chosen:
        yield from look.version(version)
    yield from _log(root, links, None if ref is None else chosen)
    yield from _channels(root, log, signatures, meant)


def lines_wrong(version: str, lines: int) -> str:
    """What is said of a release that has not exactly one line in the log."""
    return f"release {version} has {lines} lines instead of 1"


@final
@dataclass(frozen=True, kw_only=True)
class _Look:
    """One look at some releases of a store, in which nothing is read twice.

    ``coming`` is the version that a writer is about to log.
    """

    root: Path
    chosen: Sequence[str]
    log: Sequence[LogEntry]
    coming: str | None
    signatures: SignatureCheck
    gone: RetirementCheck

    def version(self, version: str) -> Iterator[Finding]:
        """All that belongs to one release."""
        where, digest = f"versions/{version}.json", self._committed[version]
        if isinstance(digest, DamagedRelease):
            yield where, digest.what
            return
        logged = self._logged.get(version, [])
        yield where, "it names another digest than the log" if logged and digest not in logged else None
        if len(logged) != 1 and version != self.coming:
            yield journal.FILE, lines_wrong(version, len(logged))
        yield from self._manifest(version, check_digest(digest))

    def _manifest(self, version: str, sha256: str) -> Iterator[Finding]:
        where = f"blobs/sha256/{sha256} (manifest of {version})"
        try:
            manifest = Manifest.from_bytes(read_blob(self.root, sha256))
        except DamagedRelease as error:
            yield where, error.what
            return
        yield where, None if manifest.version == version else f"it is the manifest of {manifest.version}"
        excused = self.gone.excused(manifest)
        for file in manifest.files:
            if file.path not in excused:
                yield f"{_place(self.root, file.sha256)} ({file.path} of {version})", self._file(file)
        for parent in manifest.parents:
            if parent not in self._digests:
                yield "versions", f"none of its files names {parent}, a parent of {manifest.version}"
        if manifest.version == version:
            yield from self.signatures.release(manifest)

    def _file(self, file: FileEntry) -> str | None:
        """Releases share files: each is read once."""
        if file not in self._seen:
            self._seen[file] = _blob_problem(self.root, file)
        return self._seen[file]

    @cached_property
    def _seen(self) -> dict[FileEntry, str | None]:
        return {}

    @cached_property
    def _committed(self) -> Mapping[str, str | DamagedRelease]:
        """Version -> its digest, or why nobody can say; of all versions, since a parent may be any of them."""
        return {version: _digest_of(self.root, version) for version in {*self.chosen, *versions(self.root)}}

    @cached_property
    def _digests(self) -> frozenset[str]:
        return frozenset(digest for digest in self._committed.values() if isinstance(digest, str))

    @cached_property
    def _logged(self) -> Mapping[str, list[str | None]]:
        """Version -> the digests that the log tells it was released with."""
        found = dict[str, list[str | None]]()
        for entry in self.log:
            if entry.event in journal.RELEASES:
                found.setdefault(entry.version, []).append(entry.digest)
        return found


def _digest_of(root: Path, version: str) -> str | DamagedRelease:
    try:
        return committed_digest(root, version)
    except DamagedRelease as error:
        return error


def _place(root: Path, sha256: str) -> str:
    """Below the store: the raw blob, or its packed form where that is all there is."""
    raw_gone = not blob_path(root, sha256).exists()
    return f"{'packed' if raw_gone and packed_path(root, sha256).is_file() else 'blobs'}/sha256/{sha256}"


def _blob_problem(root: Path, file: FileEntry) -> str | None:
    try:
        with content(root, file.sha256) as path:
            return _file_problem(path, file)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except DamagedRelease as error:
        return error.what


def _file_problem(path: Path, file: FileEntry) -> str | None:
    sha256, size = digest_file(path), path.stat().st_size
    if sha256 != file.sha256:
        return "its bytes are not those that were released"
    if size != file.size:
        return f"it has {size} bytes and the manifest says {file.size}"
    return _tensor_problem(path) if file.path.endswith(".safetensors") else None


def _tensor_problem(path: Path) -> str | None:
    try:
        wrong = [name for name, tensor in StateFile(path).items() if not _is_finite(tensor)]
    except UpdateRefused:
        return "it is not readable as safetensors"
    return f"not all numbers are finite in {', '.join(wrong)}" if wrong else None


def _is_finite(tensor: Tensor) -> bool:
    wide = tensor.float() if tensor.dtype.is_floating_point and tensor.dtype.itemsize == 1 else tensor
    return bool(torch.isfinite(wide).all())


def _log(root: Path, links: Sequence[journal.Link], versions_meant: Sequence[str] | None) -> Iterator[Finding]:
    yield journal.FILE, None
    yield from ((journal.FILE, what) for _, what in links if what is not None)
    for entry, _ in links:
        meant = entry is not None and (versions_meant is None or entry.version in versions_meant)
        if entry is not None and entry.digest is not None and meant and not version_path(root, entry.version).exists():
            yield f"versions/{entry.version}.json", "it is missing, and the log tells of that release"


def _channels(
    root: Path, log: Sequence[LogEntry], signatures: SignatureCheck, meant: Intent | None
) -> Iterator[Finding]:
    every, broken = _generations(root)
    if broken is not None:
        yield str(broken.value), broken.what
    else:
        yield from _pointers(root, log, [one for _, one in every], under_way=meant is not None)
    for sha256, one in every:
        yield from signatures.generation(one, f"sha256:{sha256}")
    if every or broken is None:  # what was signed is not to be compared with what cannot be read
        yield from signatures.channels(meant, log)


def _generations(root: Path) -> tuple[list[tuple[str, Channels]], DamagedRelease | None]:
    """Every generation with its sha256, newest first, until one is damaged."""
    found = list[tuple[str, Channels]]()
    try:
        for named in channels.named_generations(root):
            found.append(named)  # what came before the damage counts
    except DamagedRelease as error:
        return found, error
    return found, None


def _pointers(root: Path, log: Sequence[LogEntry], every: Sequence[Channels], *, under_way: bool) -> Iterator[Finding]:
    told = max((entry.generation or 0 for entry in log), default=0)
    now = every[0] if every else Channels()
    if told and not now.generation and not under_way:
        yield channels.FILE, "it is missing"
    if 0 < now.generation < told and not under_way:
        yield channels.FILE, f"it is generation {now.generation}, and the log tells of {told}: an old file was put back"
    yield channels.FILE, None
    for one in every[:-1]:
        yield f"blobs/sha256/{one.previous} (channels, generation {one.generation - 1})", None
    for name, pointer in sorted(now.channels.items()):
        yield from _pointer(root, name, pointer)


def _pointer(root: Path, name: str, pointer: Pointer) -> Iterator[Finding]:
    try:
        same = committed_digest(root, pointer.version) == pointer.digest
    except DamagedRelease as error:
        yield channels.FILE, f"{name} points at {pointer.version}, but {error.what}"
    else:
        yield channels.FILE, None if same else f"{name} points at another digest than that of {pointer.version}"
