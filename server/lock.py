"""One writer at a time: ``flock`` on a file that holds the writer's process number.

The system drops the lock when its process dies, however it dies. Children made by ``fork`` do not keep it alive.

Example::

    with hold(Path("releases/.lock")):
        ...                                                # a second hold, here or elsewhere, raises StoreBusy
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrelease.errors import StoreBusy
from fedrelease.server.blobs import disk_errors

__all__ = ["hold", "is_held"]

_held: set[int] = set()


def _close_in_child() -> None:
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def hold(path: Path, *, of: Path | None = None) -> Iterator[None]:
    """Hold the lock while the block runs; ``of`` is the store that a refusal names, else the lock's folder.

    Raises:
        StoreBusy: somebody holds it; the message names their process.
        StoreError: the lock file cannot be written.
    """
    with disk_errors(path.parent):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    _held.add(handle)
    try:
        with disk_errors(path.parent):
            _take(handle, of or path.parent)
        yield
    finally:
        if handle in _held:  # not so in a forked child, where the number may mean another file by now
            _held.discard(handle)
            os.close(handle)


def _take(handle: int, store: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "of unknown number"
        raise StoreBusy(
            f"the store is in use by process {holder}",
            value=str(store),
            rule="one run writes to a store at a time",
            hint="wait for it to end, or name another folder with --store",
        ) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock now; the file stays as it is."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
