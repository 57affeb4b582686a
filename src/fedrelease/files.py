"""Durable files and content digests: the only module that writes what must survive a power cut.

Example::

    write_durably(Path("store.json"), b'{"layout": 1}')
    digest_bytes(b"abc")   # 'ba7816bf...'
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias
from uuid import uuid4

__all__ = [
    "Json",
    "LastLine",
    "append_durably",
    "canonical_bytes",
    "digest_bytes",
    "digest_file",
    "last_line",
    "naming",
    "read_lines",
    "sync_folder",
    "write_durably",
]

BLOCK = 1 << 12
"""Bytes that are read at a time when a file is read from its end."""
Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None


def canonical_bytes(value: Json) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8, floats as decimal strings.

    Raises:
        ValueError: a float is NaN or infinite, which has no canonical form.
    """
    return json.dumps(
        _floats_as_text(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _floats_as_text(value: Json) -> Json:
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{value} has no canonical form")
        return float.__repr__(value)  # numpy's floats are floats too, and write themselves another way
    if isinstance(value, Mapping):
        return {key: _floats_as_text(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_floats_as_text(inner) for inner in value]
    return value


def digest_bytes(data: bytes) -> str:
    """The sha256 of ``data`` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """The sha256 of a file's bytes as 64 hexadecimal digits, read in pieces of 1 MiB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the entries of ``folder`` (renames, links, new files) survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, data: bytes | Iterable[bytes | memoryview], *, mode: int = 0o644) -> None:
    """Replace ``path`` with ``data``, which may come in pieces: a reader, or a machine after a power cut, sees all of it or none.

    The bytes go to a temporary file in the same folder, are flushed to disk, and take their name in one rename.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid4().hex}.tmp"
    try:
        with naming(path), temporary.open("wb") as file:
            for piece in (data,) if isinstance(data, bytes) else data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let what the system says of the block name the file: of a full disk it says only that it is full, and not which one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def append_durably(path: Path, line: bytes) -> None:
    """Append one line (its newline is added) and return only when it is on disk.

    A last line without its newline was torn by a crash and never counted: it is cut off first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), path.open("ab+") as file:
        file.truncate(_complete_length(file))
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


@dataclass(frozen=True, kw_only=True)
class LastLine:
    """The end of an append-only file: its last complete line, without the newline, and the bytes until there, with it."""

    line: bytes
    length: int


def last_line(path: Path) -> LastLine | None:
    """The last complete line, read from the end, so that it costs no more in a long file; None where there is none."""
    try:
        with path.open("rb") as file:
            length = _complete_length(file)
            begin = _newline_before(file, length - 1) + 1
            file.seek(begin)
            return LastLine(line=file.read(length - 1 - begin), length=length) if length else None
    except FileNotFoundError:
        return None


def _complete_length(file: BinaryIO) -> int:
    return _newline_before(file, file.seek(0, os.SEEK_END)) + 1


def _newline_before(file: BinaryIO, end: int) -> int:
    """Where the last newline is among the first ``end`` bytes; -1 where there is none."""
    while end > 0:
        begin = max(0, end - BLOCK)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found
        end = begin
    return -1


def read_lines(path: Path) -> list[bytes]:
    """The complete lines of an append-only file, without newlines; a missing file has none, a torn tail is left out."""
    if not path.exists():
        return []
    return path.read_bytes().split(b"\n")[:-1]
