"""The folder of fetched bases, fetched data and prepared sites; what appears in it appears whole.

Example::

    with workspace(cache_folder() / "prepared") as work:
        (work / "new").mkdir()
        (work / "new").rename(cache_folder() / "prepared" / "a-key")
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

__all__ = ["cache_folder", "workspace"]


def cache_folder() -> Path:
    """``FEDRELEASE_CACHE`` when it is set and not empty, else ``~/.cache/fedrelease``; it may not exist yet."""
    named = os.environ.get("FEDRELEASE_CACHE", "")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "fedrelease"


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Yield an empty scratch folder inside ``folder``, and let one process at a time work there.

    Guarantees: a second process waits until the first is done; the scratch folder is gone afterwards, whatever happened
    in between; what a killed process left behind is removed by the next one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _sweep(folder)
        work = folder / f".work-{uuid4().hex}"
        work.mkdir()
        try:
            yield work
        finally:
            _sweep(folder)


def _sweep(folder: Path) -> None:
    for leftover in folder.glob(".work-*"):
        shutil.rmtree(leftover, ignore_errors=True)
