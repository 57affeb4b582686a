"""A disk that fails at the n-th call: as a kill (nothing happens afterwards) or as a full disk (tidying up works).

Counted are the calls that change the disk. A write that fails has written half of its bytes.
"""

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CALLS = ("chmod", "fsync", "ftruncate", "link", "mkdir", "pwrite", "replace", "unlink")
NEED_SPACE = ("fsync", "link", "mkdir", "open", "pwrite", "write")


class Killed(BaseException):
    """The process is gone."""


class Fault:
    """Counts calls; from the n-th on every call is dead (kill), or only those that need space fail (full disk)."""

    def __init__(self, at: int | None, *, full_disk: bool = False) -> None:
        self.at, self.full_disk, self.calls, self.trace = at, full_disk, 0, list[str]()

    def strikes(self, call: str, name: object) -> bool:
        if self.full_disk and call not in NEED_SPACE:
            return False
        self.calls += 1
        self.trace.append(f"{call} {name}")
        return self.at is not None and self.calls >= self.at

    def error(self) -> BaseException:
        return OSError(errno.ENOSPC, "No space left on device") if self.full_disk else Killed()


class FaultyFile(io.FileIO):
    """Unbuffered, so that what was not written before the kill never is."""

    fault: Fault

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self.fault.strikes("write", Path(str(self.name)).name):
            super().write(data[: len(data) // 2])
            raise self.fault.error()
        return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        if self.fault.strikes("truncate", Path(str(self.name)).name):
            raise self.fault.error()
        return super().truncate(size)


@contextmanager
def disk(fault: Fault) -> Iterator[Fault]:
    """Let the fault strike while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, _faulty(name, getattr(os, name), fault))
        patch.setattr(Path, "open", _faulty_open(Path.open, fault))
        yield fault


def _faulty(name: str, real: Callable[..., object], fault: Fault) -> Callable[..., object]:
    def call(*arguments: object, **options: object) -> object:
        if fault.strikes(name, _subject(name, arguments)):
            raise fault.error()
        return None if name == "fsync" else real(*arguments, **options)  # the real one only costs time here

    return call


def _faulty_open(real: Callable[..., object], fault: Fault) -> Callable[..., object]:
    def call(path: Path, mode: str = "r", *arguments: object, **options: object) -> object:
        if mode not in ("wb", "ab+"):
            return real(path, mode, *arguments, **options)
        if fault.strikes("open", path.name):
            raise fault.error()
        file = FaultyFile(str(path), "w" if mode == "wb" else "a+")
        file.fault = fault
        return file

    return call


def _subject(name: str, arguments: tuple[object, ...]) -> str:
    """The file that a call is about: the target of a rename or link."""
    target = arguments[1] if name in ("link", "replace") else arguments[0]
    return Path(Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else str(target)).name
