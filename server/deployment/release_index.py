"""Which bytes the release service may give away, by their sha256: those that a release, its signatures or the base refer to.

Example::

    index = ReleaseIndex(server)
    index.file(sha256).path                                # looked up; a name from the network never becomes a path
    [release.version for release in index.releases()]

Nothing else of a store leaves it: no spool with the updates of single sites, no report that was attached later.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import final

from fedrelease.cache import cache_folder
from fedrelease.errors import ModelError, ReleaseNotFound
from fedrelease.files import digest_file, write_durably
from fedrelease.manifest import check_digest, check_sha256
from fedrelease.models.bases import Base, open_base
from fedrelease.server import channels, journal
from fedrelease.server.attachments import attachments
from fedrelease.server.contents import PLAIN
from fedrelease.server.deployment.folder import Server
from fedrelease.server.packed import packed_path
from fedrelease.server.references import keyframe_of
from fedrelease.server.release import Release, load, versions
from fedrelease.server.signatures import SIGNATURE

__all__ = ["ReleaseIndex", "ServedFile", "write_served"]

FILE = "releases.json"


@dataclass(frozen=True, kw_only=True)
class ServedFile:
    """A file that may be read; ``name`` is what the other side calls it: below a store, or below the base."""

    name: str
    path: Path
    sha256: str
    size: int


def write_served(server: Server, *, store: Path, base: Path) -> None:
    """Say which store and which base the service of this server is about, from now on."""
    told = {"store": str(store.absolute()), "base": str(base.absolute())}
    write_durably(server.folder / FILE, json.dumps(told).encode())


@final
class ReleaseIndex:
    """What is served now; read anew whenever the store moved on. May be asked by several threads."""

    def __init__(self, server: Server) -> None:
        """Nothing is read yet."""
        self._server = server
        self._lock = threading.Lock()
        self._seen: object = None
        self._files: Mapping[str, ServedFile] = {}
        self._by_digest: Mapping[str, ServedFile] = {}
        self._base: tuple[object, Base] | None = None

    @property
    def store(self) -> Path:
        """The folder of releases.

        Raises:
            ReleaseNotFound: no run was started yet.
        """
        return Path(self._served()["store"])

    def releases(self) -> tuple[Release, ...]:
        """All releases, oldest first."""
        return tuple(load(self.store, version) for version in versions(self.store))

    def manifest(self, digest: str) -> bytes:
        """The bytes of a release's manifest.

        Raises:
            StoreError: no digest. ReleaseNotFound: none of a release.
        """
        check_digest(digest)
        found = next((release for release in self.releases() if release.digest == digest), None)
        if found is None:
            raise ReleaseNotFound("no release has this digest", value=digest)
        return found.manifest.to_bytes()

    def contents(self) -> tuple[ServedFile, ...]:
        """All that a copy of the releases needs, by name."""
        root = self.store
        seen = tuple(_stamp(root / name) for name in (journal.FILE, channels.FILE, "keys", *PLAIN))
        with self._lock:
            if (root, seen) != self._seen:
                self._files = {file.name: file for file in _of_store(root)}
                self._by_digest = {file.sha256: file for file in self._files.values()}
                self._seen = (root, seen)
            return tuple(self._files[name] for name in sorted(self._files))

    def base(self, digest: str = "") -> tuple[str, tuple[ServedFile, ...]]:
        """The digest and the files of the run's base.

        Raises:
            ReleaseNotFound: it has another digest. ModelError: it cannot be read.
        """
        base = self._opened_base()
        if digest not in ("", base.digest):
            check_sha256(digest)
            raise ReleaseNotFound(
                "the base of the run is another one", value=digest, rule=f"its digest is {base.digest}"
            )
        paths = {name: base.folder / name for name in base.files}
        files = (
            ServedFile(name=name, path=path, sha256=base.files[name], size=path.stat().st_size)
            for name, path in sorted(paths.items())
        )
        return base.digest, tuple(files)

    def file(self, sha256: str) -> ServedFile:
        """A file of a release or of the base.

        Raises:
            StoreError: no sha256. ReleaseNotFound: nothing that is served has it.
        """
        check_sha256(sha256)
        self.contents()
        found = self._by_digest.get(sha256) or next((one for one in self._base_files() if one.sha256 == sha256), None)
        if found is not None:
            return found
        raise ReleaseNotFound("no release and no base refers to these bytes", value=sha256)

    def _base_files(self) -> tuple[ServedFile, ...]:
        try:
            return self.base()[1]
        except ModelError:
            return ()

    def _opened_base(self) -> Base:
        """The run's base; its digests are taken once, and again when a file of it changes."""
        folder = Path(self._served()["base"])
        stamp = tuple(_stamp(path) for path in sorted(folder.rglob("*")))
        with self._lock:
            if self._base is None or self._base[0] != (folder, stamp):
                self._base = ((folder, stamp), open_base(str(folder), cache=cache_folder()))
            return self._base[1]

    def _served(self) -> Mapping[str, str]:
        try:
            return {
                str(key): str(value) for key, value in json.loads((self._server.folder / FILE).read_bytes()).items()
            }
        except FileNotFoundError as error:
            raise ReleaseNotFound(
                "no run was started here yet", hint="fedrelease server start EXPERIMENT.toml"
            ) from error


def _of_store(root: Path) -> Iterator[ServedFile]:
    if not (root / "store.json").is_file():
        return
    for sha256, size in sorted(_blobs(root).items()):
        yield from _blob(root, sha256, size)
        for attached in attachments(root, f"sha256:{sha256}", SIGNATURE):
            yield _other(attached.name, attached.path)
    for path in sorted(keys.iterdir()) if (keys := root / "keys").is_dir() else ():
        yield _other(f"keys/{path.name}", path)
    yield from (_other(name, root / name) for name in PLAIN if (root / name).is_file())


def _blobs(root: Path) -> dict[str, int | None]:
    """The sha256 of every manifest, file and generation, and of what packed ones are decoded with; and their promised bytes."""
    found = dict[str, int | None]()
    for version in versions(root):
        release = load(root, version)
        found |= {check_digest(release.digest): None, **{file.sha256: file.size for file in release.manifest.files}}
    found |= {sha256: None for sha256, _ in channels.named_generations(root)}
    while new := {frame for sha256 in found if (frame := keyframe_of(root, sha256)) is not None} - found.keys():
        found |= dict.fromkeys(new)
    return found


def _blob(root: Path, sha256: str, size: int | None) -> Iterator[ServedFile]:
    """A blob in the form in which it is there, with the size that it should have; the newest generation is no blob yet."""
    raw, packed = root / "blobs" / "sha256" / sha256, packed_path(root, sha256)
    if raw.is_file():
        told = raw.stat().st_size if size is None else size
        yield ServedFile(name=f"blobs/sha256/{sha256}", path=raw, sha256=sha256, size=told)
    elif packed.is_file():
        yield _other(f"packed/sha256/{sha256}", packed)


def _other(name: str, path: Path) -> ServedFile:
    told = path.stat()
    return ServedFile(name=name, path=path, sha256=_digest(path, told.st_size, told.st_mtime_ns), size=told.st_size)


@lru_cache(maxsize=1 << 14)
def _digest(path: Path, size: int, time_ns: int) -> str:
    """Of a file that is not named by its whole digest; taken once for each state of it."""
    del size, time_ns
    return digest_file(path)


def _stamp(path: Path) -> tuple[str, int, int] | None:
    try:
        told = path.stat()
    except OSError:
        return None
    return path.name, told.st_size, told.st_mtime_ns
