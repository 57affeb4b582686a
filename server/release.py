"""Reading releases. Needs no lock: what is committed never changes.

Example::

    release = load(Path("releases"), resolve(Path("releases"), "stable"))
    release.version, release.digest, release.manifest.metrics.mean
    dict(release.state())                                  # the adapter's tensors, checked against their digest
"""

import difflib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedrelease import facts
from fedrelease.errors import DamagedRelease, ReleaseNotFound, StoreError, UpdateRefused
from fedrelease.experiment import Experiment
from fedrelease.experiment_file import load_experiment
from fedrelease.files import digest_file
from fedrelease.manifest import FileEntry, Manifest, check_digest, parse_version
from fedrelease.server import channels
from fedrelease.server.blobs import read_blob
from fedrelease.server.packed import whole
from fedrelease.server.retired import retired_refusal

if TYPE_CHECKING:  # who only moves releases about, such as the release service, has no use for torch
    from fedrelease.update import State

__all__ = [
    "Committed",
    "Release",
    "by_digest",
    "committed_digest",
    "experiment_of",
    "is_of_one_form",
    "load",
    "resolve",
    "version_path",
    "versions",
]

SHORTEST_PREFIX = 8


@dataclass(frozen=True, kw_only=True)
class Committed:
    """The content of ``versions/<version>.json``: the identity of that version, for good."""

    digest: str

    def __post_init__(self) -> None:
        """Check bounds."""
        check_digest(self.digest)


@dataclass(frozen=True, kw_only=True)
class Release:
    """One committed release and the store's folder, where its files lie."""

    version: str
    digest: str
    manifest: Manifest
    root: Path

    def path(self, name: str) -> Path:
        """A file with the bytes of this path in the release, or of the only one with this role.

        Where the store has them packed, they are decoded into the system's temporary folder for as long as this process runs.

        Guarantees: the file had the size and sha256 of the manifest when this was called.

        Raises:
            ReleaseNotFound: the release has no such file, or several with that role.
            DamagedRelease: the bytes are missing or wrong; the message names the file and the version.
            RetiredRelease: they were removed by the rules of retention; the message says when and by which.
        """
        entry = self._entry(name)
        if (refusal := retired_refusal(self.root, self.version, entry)) is not None:
            raise refusal
        try:
            path = whole(self.root, entry.sha256)
            sound = digest_file(path) == entry.sha256
        except OSError as error:
            raise self._damaged(entry, error.strerror or "cannot be read") from error
        except DamagedRelease as error:
            raise self._damaged(entry, error.what) from error
        if not sound:
            raise self._damaged(entry, "its bytes are not those that were released")
        return path

    def read(self, name: str) -> bytes:
        """The checked bytes of a file, by path or role."""
        return self.path(name).read_bytes()

    def state(self) -> "State":
        """The adapter's tensors, read one at a time."""
        return self._tensors("adapter")

    def memory(self) -> "State":
        """The strategy's tensors between rounds; none when the strategy keeps none."""
        kept = any(entry.role == "memory" for entry in self.manifest.files)
        return self._tensors("memory") if kept else {}

    def _tensors(self, name: str) -> "State":
        from fedrelease.update import StateFile

        try:
            return StateFile(self.path(name))
        except UpdateRefused as error:
            raise self._damaged(self._entry(name), "is not safetensors") from error

    def _entry(self, name: str) -> FileEntry:
        files = self.manifest.files
        found = [entry for entry in files if entry.path == name] or [entry for entry in files if entry.role == name]
        if len(found) != 1:
            what = f"release {self.version} has {len(found) or 'no'} files called {name}"
            raise ReleaseNotFound(what, value=name, hint=f"one of {', '.join(entry.path for entry in files)}")
        return found[0]

    def _damaged(self, entry: FileEntry, why: str) -> DamagedRelease:
        where = f"blobs/sha256/{entry.sha256}"
        return DamagedRelease(
            f"{entry.path} of release {self.version} is damaged: {why}",
            value=where,
            rule="a release never changes",
            hint="restore that file from a copy of the store; `fedrelease verify` lists all damage",
        )


def version_path(root: Path, version: str) -> Path:
    """The file whose existence commits a version."""
    return root / "versions" / f"{version}.json"


def versions(root: Path) -> tuple[str, ...]:
    """All committed versions, lowest first."""
    found = {}
    for name in _names(root / "versions"):
        with suppress(StoreError):
            found[parse_version(name)] = name
    return tuple(found[version] for version in sorted(found))


def _names(folder: Path) -> list[str]:
    try:
        return [path.stem for path in folder.iterdir() if path.suffix == ".json"]
    except OSError:
        return []


def committed_digest(root: Path, version: str) -> str:
    """The digest that a version was committed with.

    Raises:
        DamagedRelease: its file in ``versions/`` is missing or damaged.
    """
    path = version_path(root, version)
    where = f"versions/{version}.json"
    try:
        return facts.from_bytes(Committed, path.read_bytes()).digest
    except OSError as error:
        raise DamagedRelease(f"{where} cannot be read: {error.strerror}", value=where) from error
    except DamagedRelease as error:
        raise DamagedRelease(f"{where} is damaged: {error.what}", value=where, rule=error.rule) from error


def load(root: Path, version: str) -> Release:
    """A release by its exact version.

    Raises:
        DamagedRelease: the version's file or its manifest is missing or damaged.
    """
    digest = committed_digest(root, version)
    try:
        manifest = Manifest.from_bytes(read_blob(root, check_digest(digest)))
    except DamagedRelease as error:
        what = f"the manifest of release {version} is damaged: {error.what}"
        raise DamagedRelease(what, value=error.value, rule=error.rule, hint=error.hint) from error
    if manifest.version != version:
        raise DamagedRelease(f"versions/{version}.json leads to the manifest of {manifest.version}", value=digest)
    return Release(version=version, digest=digest, manifest=manifest, root=root)


def by_digest(root: Path, digest: str) -> Release:
    """A release by its whole digest.

    Raises:
        ReleaseNotFound: the store has none.
    """
    return _as_named(root, digest) or load(root, resolve(root, digest))


def _as_named(root: Path, digest: str) -> Release | None:
    """Where the manifest with that digest leads to its version and back: no other release needs to be looked at."""
    with suppress(StoreError):
        manifest = Manifest.from_bytes(read_blob(root, check_digest(digest)))
        if committed_digest(root, manifest.version) == digest:
            return Release(version=manifest.version, digest=digest, manifest=manifest, root=root)
    return None


def experiment_of(release: Release) -> Experiment:
    """The experiment that a release came from, as it was resolved.

    Raises:
        DamagedRelease: it is not what was released.
    """
    return load_experiment(None, text=release.read("experiment.toml").decode())


def is_of_one_form(first: Release, second: Release) -> bool:
    """Whether their states have the same tensors, in the same shapes: neither labels nor adapter grew between them."""
    one, other = first.manifest, second.manifest
    alike = one.task.labels == other.task.labels and one.adapter == other.adapter
    return alike and first.state().keys() == second.state().keys()  # a residual is in no manifest


def resolve(root: Path, ref: str) -> str:
    """The version behind a version, a channel, or a digest (whole, or at least 8 digits of it).

    Raises:
        ReleaseNotFound: nothing, or more than one release, is called so; the hint lists what there is.
    """
    known = versions(root)
    if ref in known:
        return ref
    pointers = channels.read(root).channels
    if ref in pointers:
        return pointers[ref].version
    found = _by_digest(root, ref.removeprefix("sha256:"), known)
    if len(found) == 1:
        return found[0]
    if found:
        raise ReleaseNotFound("several releases begin with that digest", value=ref, hint=f"one of {', '.join(found)}")
    raise ReleaseNotFound("no such release", value=ref, hint=_known_names(ref, known, tuple(sorted(pointers))))


def _by_digest(root: Path, prefix: str, known: tuple[str, ...]) -> tuple[str, ...]:
    if len(prefix) < SHORTEST_PREFIX:
        return ()
    return tuple(version for version in known if check_digest(committed_digest(root, version)).startswith(prefix))


def _known_names(ref: str, known: tuple[str, ...], names: tuple[str, ...]) -> str:
    if not known:
        return "the store has no release yet: run `fedrelease simulate`"
    near = difflib.get_close_matches(ref, (*known, *names), n=3, cutoff=0.5)
    nearest = f"{', '.join(near)}? " if near else ""
    shown = known if len(known) <= 12 else ("...", *known[-12:])
    return f"{nearest}Versions: {', '.join(shown)}. Channels: {', '.join(names) or 'none'}"
