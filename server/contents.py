"""What travels from one store to another: files named by their digest, then the pointers, as one value.

Example::

    pointers = pointers_of(root)                           # what the log and the channels say at one instant
    names = contents(root)                                 # 'blobs/sha256/5e1f...' -> bytes
    ahead(ours, theirs)                                    # lines that they lack; raises Diverged text when both have their own
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedrelease import facts
from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.files import digest_file
from fedrelease.server import channels, intent, journal
from fedrelease.server.channels import Channels
from fedrelease.server.references import references

__all__ = ["PLAIN", "Pointers", "Source", "check_name", "check_received", "contents", "lines_ahead", "pointers_of"]

PLAIN = ("experiment.toml",)
"""Files that a run needs beside the releases; they follow the pointers."""
_BLOB = re.compile("(blobs|packed)/sha256/[0-9a-f]{64}", re.ASCII)
_OTHER = re.compile(
    r"attach/[0-9a-f]{64}/[a-z][a-z0-9-]{0,31}\.[0-9a-f]{8}|keys/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", re.ASCII
)


@dataclass(frozen=True, kw_only=True)
class Pointers:
    """The text of ``log.jsonl`` and of ``channels.json`` at one instant; empty where there is none."""

    log: str = ""
    channels: str = ""

    @property
    def generation(self) -> int:
        """Of the channels."""
        return facts.from_bytes(Channels, self.channels.encode()).generation if self.channels else 0

    @property
    def lines(self) -> tuple[bytes, ...]:
        """Whole lines of the log."""
        return tuple(self.log.encode().split(b"\n")[:-1])


class Source(Protocol):
    """Where releases come from."""

    def pointers(self) -> Pointers | None:
        """What it says now; None where nothing was ever pushed."""

    def contents(self) -> dict[str, int]:
        """Every file that travels, by its name below the store, with its bytes."""

    def fetch(self, name: str, target: Path) -> int | None:
        """Write a file; its time of change in nanoseconds, where that matters and is known."""


def pointers_of(root: Path) -> Pointers:
    """Of a store in a folder.

    Raises:
        StoreError: a writer is at work, and log and channels do not stand still.
    """
    for _ in range(9):
        log = _text(root / journal.FILE)
        found = Pointers(log=log[: log.rfind("\n") + 1], channels=_text(root / channels.FILE))
        if _text(root / journal.FILE) == log and not (root / intent.FILE).exists():
            return found
    raise StoreError("a publish is under way", value=str(root), hint="wait for it to end, and run this again")


def contents(root: Path) -> dict[str, int]:
    """What a copy of the store needs; leftovers that nothing refers to stay at home.

    Raises:
        DamagedRelease: a manifest or a generation cannot be read.
        StoreError: something that a release refers to is missing.
    """
    found = dict[str, int]()
    for sha256 in sorted(references(root)):
        rooms = [path for room in ("blobs", "packed") if (path := root / room / "sha256" / sha256).is_file()]
        attached = root / "attach" / sha256
        paths = [*rooms[:1], *(sorted(attached.iterdir()) if attached.is_dir() else [])]
        found |= {path.relative_to(root).as_posix(): path.stat().st_size for path in paths}
    keys = root / "keys"
    return found | {f"keys/{path.name}": path.stat().st_size for path in (keys.iterdir() if keys.is_dir() else ())}


def lines_ahead(ours: Pointers, theirs: Pointers, *, us: str, them: str) -> tuple[bytes, ...]:
    """Lines of our log that they lack; none when they are as far as we are, or further.

    Raises:
        StoreError: each has lines that the other lacks: one of them would be lost. The message names both generations.
    """
    common = min(len(ours.lines), len(theirs.lines))
    if ours.lines[:common] == theirs.lines[:common]:
        return ours.lines[common:]
    raise StoreError(
        f"{us} is at generation {ours.generation} and {them} at generation {theirs.generation},"
        f" and they went different ways after line {_same(ours.lines, theirs.lines)} of the log",
        value=them,
        rule="a copy only goes forward: neither side's releases and moves may be lost",
        hint="push to another place, or pull that one into another folder and compare with `fedrelease log`",
    )


def check_name(name: str) -> str:
    """Refuse a name that is none of a store's, so that no source writes anywhere else.

    Raises:
        StoreError: it is none.
    """
    if not _BLOB.fullmatch(name) and not _OTHER.fullmatch(name) and name not in PLAIN:
        raise StoreError("no file of a store", value=name, rule="blobs, packed blobs, attachments and keys travel")
    return name


def check_received(name: str, path: Path) -> None:
    """Compare what came with the digest in its name; what is packed is looked at when its release is.

    Raises:
        DamagedRelease: other bytes came than were sent.
    """
    room, last = name.partition("/")[0], name.rpartition("/")[2]
    promised = {"blobs": last, "attach": last.rpartition(".")[2]}.get(room, "")
    if not digest_file(path).startswith(promised):
        raise DamagedRelease("other bytes came than were sent", value=name, hint="run it again; then verify the source")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _same(ours: Sequence[bytes], theirs: Sequence[bytes]) -> int:
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(ours), len(theirs)))
