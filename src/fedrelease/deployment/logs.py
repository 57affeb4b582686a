"""One JSON object a line: what a process of a deployment did, for people and machines that read logs.

Example::

    log = Log(folder / "log" / "gateway.log", process="gateway")
    log("refused", peer="10.0.0.9", path="/v1/control/start-run", why="no path of sites")
    tail = Tail(log.path)
    tail.lines()                                     # what was written since the last time

A file that has grown to 8 MB is moved to ``gateway.log.1``, what was there to ``.2``, and so on; the fourth goes.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TypeAlias, final

from fedrelease.files import Json, naming

__all__ = ["KEPT", "LARGEST", "Line", "Log", "Tail", "read_log", "turn_over"]

LONGEST = 500
"""Characters of one value: what strangers send is not kept whole."""
LARGEST = 8 << 20
"""Bytes of one file."""
KEPT = 3
"""Older files that are kept."""
Line: TypeAlias = Mapping[str, object]


@final
class Log:
    """A file of lines. Nothing secret belongs into one: no token, no key, no row."""

    def __init__(self, path: Path, *, process: str, largest: int = LARGEST, **about: Json) -> None:
        """``process`` and ``about``, such as the site, stand in each line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._largest = path, largest
        self._about: dict[str, Json] = {"process": process, **about}

    def about(self, **facts: Json) -> None:
        """From now on these stand in each line too, such as the run or the round; what is ``None`` no more."""
        self._about = {key: value for key, value in (self._about | facts).items() if value is not None}

    def __call__(self, event: str, **facts: Json) -> None:
        """Write one line with the time of now in UTC."""
        told = {key: value[:LONGEST] if isinstance(value, str) else value for key, value in facts.items()}
        with naming(self.path), _at_end(self.path, self._largest) as file:
            time = datetime.now(UTC).isoformat(timespec="milliseconds")  # in the lock: times go up in the file
            line = json.dumps({"time": time, **self._about, "event": event, **told}, ensure_ascii=True)
            file.write(line.encode("ascii") + b"\n")


@contextmanager
def _at_end(path: Path, largest: int) -> Iterator[BinaryIO]:
    """The file, which several processes write; nobody else writes meanwhile, and nobody writes to one that was moved away."""
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is(file, path):
                continue
            if file.tell() >= largest:
                turn_over(path)
                continue
            yield file
            return


def _is(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def turn_over(path: Path) -> None:
    """Move a file and the older ones one place further; the oldest goes."""
    for number in range(KEPT, 0, -1):
        older = _generation(path, number - 1)
        if older.exists():
            older.replace(_generation(path, number))


def _generation(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


@final
class Tail:
    """What is written into a log, from its oldest line or from now on; also when it is moved away meanwhile."""

    def __init__(self, path: Path, *, from_now: bool = False) -> None:
        """The file need not be there yet."""
        self._path = path
        self._place = path.stat().st_size if from_now and path.exists() else 0
        self._older = [] if from_now else [_generation(path, number) for number in range(KEPT, 0, -1)]
        self._file: BinaryIO | None = None

    def lines(self) -> list[Line]:
        """The whole lines since the last time; what is no JSON object is left out."""
        found = [line for path in self._older if path.exists() for line in _parsed(path.read_bytes())]
        self._older = []
        while self._path.exists() or self._file is not None:
            if self._file is None:
                self._file = self._path.open("rb")
            moved = not _is(self._file, self._path)  # first: once it is moved, nobody writes to it
            found += self._rest(self._file)
            if not moved:
                break
            self.close()
        return found

    def _rest(self, file: BinaryIO) -> list[Line]:
        file.seek(self._place)
        data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._place += len(whole)
        return _parsed(whole)

    def close(self) -> None:
        """Let go of the file; the next lines are those of the one that has its name then."""
        if self._file is not None:
            self._file.close()
        self._file, self._place = None, 0


def read_log(path: Path) -> list[Line]:
    """All lines that are kept of a log, oldest first."""
    tail = Tail(path)
    try:
        return tail.lines()
    finally:
        tail.close()


def _parsed(data: bytes) -> list[Line]:
    found: list[Line] = []
    for line in data.splitlines():
        try:
            facts = json.loads(line)
        except ValueError:
            continue  # torn by a crash
        if isinstance(facts, dict):
            found.append(facts)
    return found
