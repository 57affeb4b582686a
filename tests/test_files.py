"""Durable files and digests."""

import json
import os
import stat
from pathlib import Path

import numpy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedrelease import files
from fedrelease.files import (
    LastLine,
    append_durably,
    canonical_bytes,
    digest_bytes,
    digest_file,
    last_line,
    naming,
    read_lines,
    sync_folder,
    write_durably,
)


def test_canonical_bytes_sort_keys_and_write_floats_as_text() -> None:
    value = {"b": [1, 2.0, None, True], "a": {"ü": 1e-05, "y": "0.5"}}
    assert canonical_bytes(value) == '{"a":{"y":"0.5","ü":"1e-05"},"b":[1,"2.0",null,true]}'.encode()


def test_tuples_and_lists_have_the_same_canonical_form() -> None:
    assert canonical_bytes({"a": (1, 2)}) == canonical_bytes({"a": [1, 2]})


def test_a_float_of_numpy_has_the_form_of_a_float() -> None:
    assert canonical_bytes(numpy.float64(0.1)) == canonical_bytes(0.1) == b'"0.1"'


def test_floats_that_differ_in_one_bit_differ() -> None:
    assert canonical_bytes(0.1 + 0.2) != canonical_bytes(0.3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_float_that_is_not_finite_has_no_canonical_form(value: float) -> None:
    with pytest.raises(ValueError, match="no canonical form"):
        canonical_bytes({"deep": [{"down": value}]})


def test_digests_are_sha256(tmp_path: Path) -> None:
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest_bytes(b"abc") == digest_file(tmp_path / "abc") == known


def test_a_durable_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_durably(path, b"a long first text")
    write_durably(path, b"short")
    assert path.read_bytes() == b"short"
    assert list(path.parent.iterdir()) == [path]


def test_a_durable_write_sets_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    write_durably(tmp_path / "open", b"")
    write_durably(tmp_path / "key", b"", mode=0o600)
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_is_named_by_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with pytest.raises(OSError, match="No space left") as caught, naming(path), Path("/dev/full").open("wb", 0) as full:
        full.write(b"x")
    assert caught.value.filename == str(path)


def test_the_bytes_are_on_disk_before_they_take_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append("sync"), sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (seen.append("rename"), replace(self, to))[1])
    write_durably(tmp_path / "file", b"x")
    assert seen == ["sync", "rename", "sync"]  # the file, its name, the folder


def test_lines_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log"
    for line in (b"one", b"", b"three"):
        append_durably(path, line)
    assert read_lines(path) == [b"one", b"", b"three"]
    assert path.read_bytes() == b"one\n\nthree\n"


@pytest.mark.parametrize("torn", [b"t", b"torn without an end", b'{"half": '])
def test_a_torn_last_line_is_neither_read_nor_kept(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log"
    append_durably(path, b"one")
    path.write_bytes(path.read_bytes() + torn)
    assert read_lines(path) == [b"one"]
    append_durably(path, b"two")
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_file_of_one_torn_line_has_no_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"torn")
    assert read_lines(tmp_path / "log") == []
    append_durably(tmp_path / "log", b"one")
    assert read_lines(tmp_path / "log") == [b"one"]


def test_a_missing_file_has_no_line(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "log") == []


@given(data=st.text(alphabet="ab\n", max_size=40).map(str.encode), block=st.integers(1, 9))
@example(data=b"\n", block=1)
@example(data=b"one\ntorn", block=4)
def test_the_last_line_from_the_end_is_the_last_of_all_lines(
    data: bytes, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "last-line"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK", block)
        found = last_line(path)
    lines, length = read_lines(path), data.rfind(b"\n") + 1
    assert found == (LastLine(line=lines[-1], length=length) if lines else None)


def test_a_missing_file_has_no_last_line(tmp_path: Path) -> None:
    assert last_line(tmp_path / "log") is None


def test_a_line_is_on_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sizes = tmp_path / "log", list[int]()
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (sizes.append(path.stat().st_size), sync(handle))[1])
    append_durably(path, b"1234")
    assert sizes == [5, 5]  # all bytes were handed over before the file was flushed, then its folder


def test_a_folder_that_does_not_exist_cannot_be_made_to_last(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "nowhere")


def test_canonical_bytes_are_json(tmp_path: Path) -> None:
    assert json.loads(canonical_bytes({"a": 'quote " and \n newline'})) == {"a": 'quote " and \n newline'}
    assert b"\n" not in canonical_bytes({"a": "\n"})
