"""The folder of an export: it appears whole, knows its own files, and never takes the place of anything else.

Example::

    with new_folder(Path("export/tiny-0.1.2-onnx"), marker) as folder:
        (folder / "model.onnx").write_bytes(data)            # in place when the block ends without an error
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from fedrelease.errors import StoreError
from fedrelease.files import Json, canonical_bytes, digest_file

__all__ = ["MARKER", "Marker", "files_in", "new_folder"]

MARKER = "export.json"
ADDED = ("model.sig",)
"""What may come into a folder later without making it somebody else's: its signature."""


@dataclass(frozen=True, kw_only=True)
class Marker:
    """What ``export.json`` says. ``files``: sha256 by path, of all files but itself and what is added later."""

    name: str
    version: str
    digest: str
    format: str
    files: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Json]:
        """As it is written."""
        facts: dict[str, Json] = {"name": self.name, "version": self.version, "release": self.digest}
        return {**facts, "format": self.format, "files": dict(self.files)}


@contextmanager
def new_folder(out: Path, marker: Marker, *, finish: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A scratch folder that becomes ``out`` when the block ends, with an ``export.json`` that lists what is in it.

    Args:
        finish: called last with the complete folder, before it takes its name. This is where a folder is signed.

    Guarantees: ``out`` is there whole or as it was. Only an earlier export of the same release and format is replaced, and
    only if nobody put anything into it.

    Raises:
        StoreError: ``out`` holds something else.
    """
    _check_free(out, marker)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.parent / f".{out.name}.{uuid4().hex}.tmp"
    work.mkdir()
    try:
        yield work
        listed = replace(marker, files=tuple(sorted(files_in(work).items())))
        (work / MARKER).write_bytes(canonical_bytes(listed.to_json()) + b"\n")
        for path in work.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors keeps its files to their owner
        if finish is not None:
            finish(work)
        _check_free(out, marker)
        if out.exists():
            out.rename(work.with_suffix(".old"))
        work.rename(out)
    finally:
        for leftover in (work, work.with_suffix(".old")):
            shutil.rmtree(leftover, ignore_errors=True)


def files_in(folder: Path) -> dict[str, str]:
    """The sha256 of each file by its POSIX path, but for ``export.json`` and what is added after it."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: digest_file(path) for name, path in named.items() if name not in (MARKER, *ADDED)}


def _check_free(out: Path, marker: Marker) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    was = _read(out / MARKER) if out.is_dir() else None
    same = was is not None and (was.get("release"), was.get("format")) == (marker.digest, marker.format)
    if was is None or not same or was.get("files") != files_in(out):
        raise StoreError(
            f"{out} holds something else",
            value=str(out),
            rule=f"an export replaces only an untouched export of {marker.version} as {marker.format}",
            hint="name another folder with --out, or remove that one",
        )


def _read(path: Path) -> dict[str, object] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
