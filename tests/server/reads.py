"""Count what a piece of work reads: files by name, bytes, entries of folders; and how often it flushes to disk."""

import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

__all__ = ["Reads", "reads"]


@dataclass(kw_only=True)
class Reads:
    """``opened`` is by the file's name: how often it was opened to be read."""

    opened: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    listed: int = 0
    flushed: int = 0


class CountingFile(io.FileIO):
    """Unbuffered, so that nothing is read but what was asked for."""

    seen: Reads

    def read(self, size: int | None = -1) -> bytes | None:
        return self._counted(super().read(-1 if size is None else size))

    def readall(self) -> bytes | None:
        return self._counted(super().readall())

    def readinto(self, buffer: bytearray) -> int | None:  # type: ignore[override]
        count = super().readinto(buffer)
        self.seen.bytes += count or 0
        return count

    def _counted(self, data: bytes | None) -> bytes | None:
        self.seen.bytes += len(data or b"")
        return data


@contextmanager
def reads() -> Iterator[Reads]:
    """What is read while the block runs; what is open to be written counts where it is read."""
    seen = Reads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", _opening(seen))
        entries = os.listdir
        patch.setattr(os, "listdir", _listing(os.listdir, entries, seen))
        patch.setattr(os, "scandir", _listing(os.scandir, entries, seen))
        patch.setattr(os, "fsync", lambda _: setattr(seen, "flushed", seen.flushed + 1))  # the real one only costs time
        yield seen


def _opening(seen: Reads) -> Callable[..., CountingFile]:
    def opened(path: Path, mode: str = "r", *_: object, **__: object) -> CountingFile:
        assert "b" in mode, f"{path} is opened as text, whose bytes are not counted here"
        file = CountingFile(str(path), mode.replace("b", ""))
        file.seen = seen
        if mode == "rb":
            seen.opened[path.name] += 1
        return file

    return opened


def _listing(real: Callable[..., object], entries: Callable[..., list[str]], seen: Reads) -> Callable[..., object]:
    def listed(folder: str | Path = ".") -> object:
        seen.listed += len(entries(folder))
        return real(folder)

    return listed
