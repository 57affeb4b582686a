"""The log and its chain."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from examples import MANIFEST
from hypothesis import given, settings
from hypothesis import strategies as st
from release_examples import TIME

from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.files import digest_bytes
from fedrelease.server.journal import FIRST, LogEntry, append, check_chain, entry_for, read, readable, utc_now

ENTRY = entry_for(MANIFEST, channels=("candidate",), time=TIME, seconds=1.25, bytes_up=7)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    for round in (1, 2, 3):
        append(tmp_path / "log.jsonl", replace(ENTRY, round=round))
    return tmp_path / "log.jsonl"


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "log.jsonl") == check_chain(tmp_path / "log.jsonl") == ()


def test_what_was_appended_is_read_back_in_order(log: Path) -> None:
    assert [entry.round for entry in read(log)] == [1, 2, 3]
    assert replace(read(log)[0], round=1, previous=FIRST) == ENTRY


def test_each_line_is_canonical_and_carries_the_sha256_of_the_line_before(log: Path) -> None:
    lines = log.read_bytes().splitlines()
    assert [json.loads(line)["previous"] for line in lines] == [FIRST, digest_bytes(lines[0]), digest_bytes(lines[1])]
    assert json.loads(lines[0])["seconds"] == "1.25"
    assert lines[0] == json.dumps(json.loads(lines[0]), sort_keys=True, separators=(",", ":")).encode()


def test_a_torn_last_line_is_left_out_and_the_next_append_replaces_it(log: Path) -> None:
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"channels":["candi')
    assert [entry.round for entry in read(log)] == [1, 2, 3]
    append(log, replace(ENTRY, round=4))
    assert [entry.round for entry in read(log)] == [1, 2, 3, 4]
    assert log.read_bytes().startswith(whole)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda lines: [lines[0].replace(b"pilot", b"pilos"), *lines[1:]], "line 2 does not follow"),
        (lambda lines: [lines[0], lines[2]], "line 2 does not follow"),
        (lambda lines: lines[1:], "line 1 does not follow"),
        (lambda lines: [lines[1], lines[0], lines[2]], "line 1 does not follow"),
        (lambda lines: [lines[0], b"{", lines[2]], "line 2 is unreadable"),
        (lambda lines: [lines[0], b"", *lines[1:]], "line 2 is unreadable"),
    ],
)
def test_a_changed_removed_or_moved_line_breaks_the_chain_and_is_named(log: Path, damage, line: str) -> None:  # type: ignore[no-untyped-def]
    log.write_bytes(b"".join(kept + b"\n" for kept in damage(log.read_bytes().splitlines())))
    with pytest.raises(DamagedRelease, match=line):
        read(log)
    assert any(line in what for what in check_chain(log))
    assert len(readable(log)) >= 2


def test_a_log_that_is_a_folder_is_reported_and_not_raised(tmp_path: Path) -> None:
    assert "cannot be read" in check_chain(tmp_path)[0]


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_before_the_last_line_is_found(
    position: float, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    for round in (1, 2, 3):
        append(path, replace(ENTRY, round=round))
    data = bytearray(path.read_bytes())
    last = data[:-1].rfind(b"\n")
    data[int(position * last)] ^= 1 << bit
    path.write_bytes(data)
    assert check_chain(path)


def test_an_unknown_event_and_a_release_without_digest_are_refused() -> None:
    with pytest.raises(StoreError, match="held, released, round-failed"):
        replace(ENTRY, event="lost")
    with pytest.raises(StoreError, match="has a digest"):
        replace(ENTRY, digest=None)
    with pytest.raises(StoreError, match=r"MAJOR\.MINOR\.PATCH"):
        LogEntry(version="1", digest=None, event="round-failed", phase="p", round=1, time=TIME)


def test_the_time_is_utc_to_the_second() -> None:
    assert utc_now().endswith("+00:00") and len(utc_now()) == len(TIME)
