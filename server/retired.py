"""What was removed by the rules of retention, as the generations of the channels tell it: a file that is gone without is missing.

Example::

    records = retirements(root)                            # newest first
    file_record(records, "0.1.1", sha256)                  # Move(verb='retire', time='2031-05-01T...', ...), or None
    is_there(root, sha256)                                 # raw or packed
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

from fedrelease.errors import DamagedRelease, RetiredRelease
from fedrelease.manifest import FileEntry, Manifest, version_key
from fedrelease.server.blobs import blob_path
from fedrelease.server.channels import Channels, Move, generations, read
from fedrelease.server.packed import packed_path

__all__ = [
    "RetiredFiles",
    "RetirementCheck",
    "file_record",
    "is_there",
    "records_in",
    "retired_files",
    "retired_refusal",
    "retirements",
    "updates_record",
]

PULL = "fedrelease pull SRC brings it back from a copy of the store that still has it; or name another release"


@dataclass(frozen=True, kw_only=True)
class RetiredFiles:
    """Files of one release that are gone by the rules. ``time`` is ISO 8601, UTC; ``rule`` what the gc was asked to keep."""

    version: str
    time: str
    rule: str
    files: tuple[str, ...]


def retirements(root: Path) -> tuple[Move, ...]:
    """Every record of the store, newest first; of a damaged chain those that can be read."""
    found = list[Channels]()
    with suppress(DamagedRelease):
        found.extend(generations(root))
    return records_in(found)


def records_in(every: Iterable[Channels]) -> tuple[Move, ...]:
    """The moves of these generations that retired something."""
    return tuple(one.move for one in every if one.move is not None and one.move.retired is not None)


def is_there(root: Path, sha256: str) -> bool:
    """Whether the store has these bytes in any form."""
    return blob_path(root, sha256).is_file() or packed_path(root, sha256).is_file()


def file_record(records: Sequence[Move], version: str, sha256: str) -> Move | None:
    """What says that a file of this release went; None where nothing does."""
    return next((one for one in records if _means(one, version) and one.retired and sha256 in one.retired.files), None)


def updates_record(records: Sequence[Move], version: str) -> Move | None:
    """What says that the kept updates of this round went; None where nothing does."""
    return next((one for one in records if one.retired and version in one.retired.rounds), None)


def _means(record: Move, version: str) -> bool:
    """Whether the release was there when this was written."""
    return record.retired is not None and version_key(version) <= version_key(record.retired.head)


def retired_files(root: Path, manifest: Manifest, records: Sequence[Move] | None = None) -> tuple[RetiredFiles, ...]:
    """Files of a release that are gone by the rules, by the record that says so; none of a release that is whole."""
    lost = [file for file in manifest.files if not is_there(root, file.sha256)]
    if not lost:
        return ()
    known = retirements(root) if records is None else records
    told = [(file, file_record(known, manifest.version, file.sha256)) for file in lost]
    return tuple(
        RetiredFiles(
            version=manifest.version,
            time=record.time,
            rule=record.reason or "",
            files=tuple(file.path for file, one in told if one == record),
        )
        for record in dict.fromkeys(one for _, one in told if one is not None)
    )


def retired_refusal(root: Path, version: str, file: FileEntry) -> RetiredRelease | None:
    """The refusal to read a file that is gone by the rules; None where it is there, or nothing says why it is not."""
    record = None if is_there(root, file.sha256) else file_record(retirements(root), version, file.sha256)
    if record is None:
        return None
    what = f"{file.path} of release {version} was retired on {record.time[:10]}"
    return RetiredRelease(what, value=version, rule=f"kept are {record.reason}", hint=PULL)


@final
class RetirementCheck:
    """What verify asks about files that are not there; ``told`` is what it excused."""

    def __init__(self, root: Path) -> None:
        """Nothing is read before a file is missed."""
        self._root = root
        self.told = list[RetiredFiles]()

    def excused(self, manifest: Manifest) -> frozenset[str]:
        """Paths of files that may be gone: the rules let them go, and no channel points at the release, but for its memory."""
        if all(is_there(self._root, file.sha256) for file in manifest.files):
            return frozenset()
        found = retired_files(self._root, manifest, self._records)
        serving = {file.path for file in manifest.files if file.role != "memory"}
        needed = serving if manifest.version in self._pointed else set[str]()
        self.told += [one for one in found if not needed & {*one.files}]
        return frozenset({path for one in found for path in one.files} - needed)

    @cached_property
    def _records(self) -> tuple[Move, ...]:
        return retirements(self._root)

    @cached_property
    def _pointed(self) -> frozenset[str]:
        with suppress(DamagedRelease):
            return frozenset(pointer.version for pointer in read(self._root).channels.values())
        return frozenset()
