"""The log as its writer knows it, against reading the whole log each time."""

from dataclasses import replace
from pathlib import Path

import pytest
from examples import MANIFEST
from faults import Fault, disk
from hypothesis import given, settings
from hypothesis import strategies as st
from reads import reads
from release_examples import TIME

from fedrelease.errors import DamagedRelease
from fedrelease.files import BLOCK
from fedrelease.manifest import version_key
from fedrelease.server.journal import FIRST, RELEASES, LogEntry, append, check_chain, entry_for, read
from fedrelease.server.written_log import WrittenLog

RELEASED = entry_for(MANIFEST, channels=("candidate",), time=TIME, seconds=1.25)
PROMOTED = replace(RELEASED, event="promote", actor="ada", seconds=None)
FAILED = replace(RELEASED, event="round-failed", digest=None, reason="quorum")
ENTRIES = st.builds(
    lambda entry, patch, generation: replace(entry, version=f"0.1.{patch}", generation=generation),
    st.sampled_from([RELEASED, PROMOTED, FAILED, replace(RELEASED, event="held")]),
    st.integers(1, 12),
    st.integers(1, 3),
)


def slowly_tells(path: Path, entry: LogEntry) -> bool:
    """The twin: look through all lines."""
    known = read(path)
    if entry.event in RELEASES:
        return any(one.event in RELEASES and one.version == entry.version for one in known)
    return any(replace(one, previous=FIRST) == entry for one in known)


@given(
    written=st.lists(st.tuples(ENTRIES, st.booleans()), max_size=12), asked=st.lists(ENTRIES, min_size=1, max_size=6)
)
@settings(max_examples=60, deadline=None)
def test_it_tells_what_the_whole_log_tells_whoever_wrote_the_lines(
    written: list[tuple[LogEntry, bool]], asked: list[LogEntry], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    log = WrittenLog(path)
    with disk(Fault(None)):  # without real fsyncs
        for entry, itself in written:
            assert (log.append(entry) if itself else append(path, entry)) == read(path)[-1]
    assert [log.tells(entry) for entry in asked] == [slowly_tells(path, entry) for entry in asked]
    released = [entry.version for entry in read(path) if entry.event in RELEASES]
    assert log.releases == set(released) and log.newest == max(released, key=version_key, default=None)
    assert check_chain(path) == ()


def test_after_the_first_look_only_the_last_line_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for patch in range(1, 30):
        append(path, replace(RELEASED, version=f"0.1.{patch}"))
    log = WrittenLog(path)
    assert log.newest == "0.1.29"
    with reads() as seen:
        assert log.tells(replace(RELEASED, version="0.1.2"))
    line = len(path.read_bytes().splitlines()[-1])
    assert seen.bytes == 2 * BLOCK + line < path.stat().st_size  # back to its end, back to its beginning, and the line


@pytest.mark.parametrize("tail", [b'{"torn', b"not a line of ours\n"])
def test_an_end_that_is_not_what_was_written_here_is_read_again(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "log.jsonl"
    log = WrittenLog(path)
    log.append(replace(RELEASED, version="0.1.1"))
    path.write_bytes(path.read_bytes() + tail)
    if tail.endswith(b"\n"):
        with pytest.raises(DamagedRelease, match="line 2 is unreadable"):
            log.append(replace(RELEASED, version="0.1.2"))
        path.write_bytes(path.read_bytes().removesuffix(tail))
    log.append(replace(RELEASED, version="0.1.2"))  # a torn line never counted
    assert [entry.version for entry in read(path)] == ["0.1.1", "0.1.2"]


def test_a_write_that_failed_after_its_line_was_whole_counts(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = WrittenLog(path)
    log.append(replace(RELEASED, version="0.1.1"))
    with disk(Fault(4, full_disk=True)), pytest.raises(OSError, match="No space"):
        log.append(FAILED)  # opened and written, and not flushed
    assert log.tells(FAILED) and log.append(replace(RELEASED, version="0.1.2")).version == "0.1.2"
    assert [entry.event for entry in read(path)] == ["released", "round-failed", "released"]


def test_a_log_that_went_away_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = WrittenLog(path)
    log.append(RELEASED)
    path.unlink()
    assert not log.tells(RELEASED) and log.newest is None
    assert log.append(RELEASED).previous == FIRST
