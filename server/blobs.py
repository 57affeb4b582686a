"""Immutable bytes by their sha256: ``blobs/sha256/<hex>``, read-only, whole or not there.

Example::

    sha256 = put_blob(Path("releases"), b"weights")
    read_blob(Path("releases"), sha256)                    # b'weights'
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.files import digest_bytes, digest_file, sync_folder
from fedrelease.manifest import check_sha256

__all__ = [
    "blob_path",
    "disk_errors",
    "link_durably",
    "move_durably",
    "put_blob",
    "read_blob",
    "replace_durably",
    "temporary_file",
]


def blob_path(root: Path, sha256: str) -> Path:
    """Where the store keeps the bytes with this sha256, whether it has them or not.

    Raises:
        StoreError: not a sha256, so that no name can lead out of the store.
    """
    return root / "blobs" / "sha256" / check_sha256(sha256)


def put_blob(root: Path, data: bytes | Path) -> str:
    """Keep bytes, or the content of a file, and return their sha256; bytes that are there already cost no write.

    Guarantees: the blob's name appears only when all of its bytes are on disk; a damaged blob is replaced.
    """
    sha256 = digest_bytes(data) if isinstance(data, bytes) else digest_file(data)
    path = blob_path(root, sha256)
    if path.is_file() and digest_file(path) == sha256:
        return sha256
    with temporary_file(root) as temporary:
        _write_read_only(temporary, data)
        if digest_file(temporary) != sha256:
            raise StoreError("a file changed while it was read", value=str(data), hint="write it first, then store it")
        temporary.replace(path)
    sync_folder(path.parent)
    return sha256


def read_blob(root: Path, sha256: str) -> bytes:
    """The bytes of a blob, checked.

    Raises:
        DamagedRelease: missing, unreadable, or not the bytes that its name promises.
    """
    where = f"blobs/sha256/{sha256}"
    try:
        data = blob_path(root, sha256).read_bytes()
    except OSError as error:
        raise DamagedRelease(f"{where} cannot be read: {error.strerror}", value=where) from error
    if digest_bytes(data) != sha256:
        raise DamagedRelease(f"{where} does not have the bytes of its name", value=where)
    return data


@contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn what the system says about the store's disk into a refusal with a way out.

    Raises:
        StoreError: the block raised an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StoreError(
            f"the store cannot be written: {error.strerror or error}",
            value=str(error.filename or root),
            hint="free some space and run again: no release is lost" if full else "see who may write to that path",
        ) from error


@contextmanager
def temporary_file(root: Path) -> Iterator[Path]:
    """A fresh name in ``tmp/``; whatever is still there at the end is removed."""
    temporary = root / "tmp" / uuid4().hex
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def link_durably(root: Path, path: Path, data: bytes) -> None:
    """Make ``path`` with ``data`` in one step, on disk and read-only.

    Raises:
        FileExistsError: ``path`` is taken; it is left as it is.
    """
    with temporary_file(root) as temporary:
        _write_read_only(temporary, data)
        os.link(temporary, path)
    sync_folder(path.parent)


def replace_durably(root: Path, path: Path, data: bytes, *, time_ns: int | None = None) -> None:
    """Give ``path`` these bytes in one step, on disk and read-only; ``time_ns`` is its time of change, else now."""
    with temporary_file(root) as temporary:
        _write_read_only(temporary, data)
        if time_ns is not None:
            os.utime(temporary, ns=(time_ns, time_ns))
        temporary.replace(path)
    sync_folder(path.parent)


def move_durably(temporary: Path, path: Path, *, time_ns: int | None = None) -> None:
    """Give a file that was written elsewhere in the store its name, on disk and read-only; its folder is made."""
    for folder in reversed([one for one in (path.parent, *path.parents) if not one.exists()]):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.chmod(0o444)
    if time_ns is not None:
        os.utime(temporary, ns=(time_ns, time_ns))
    temporary.replace(path)
    sync_folder(path.parent)


def _write_read_only(path: Path, data: bytes | Path) -> None:
    with path.open("wb") as target:
        if isinstance(data, bytes):
            target.write(data)
        else:
            with data.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())
    path.chmod(0o444)
