"""``fetch`` and ``doctor``."""

import json
from pathlib import Path

import pytest

from fedrelease.catalog import CATALOG
from fedrelease.cli import run
from fedrelease.errors import FetchError

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDRELEASE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("arguments", [(), ("--list",)])
def test_what_can_be_fetched_is_listed(capsys: Capture, arguments: tuple[str, ...]) -> None:
    assert run(["fetch", "--json", *arguments]) == 0
    catalog = json.loads(capsys.readouterr().out)["catalog"]
    assert [entry["alias"] for entry in catalog] == sorted(CATALOG)
    assert all(entry["path"] is None for entry in catalog)


def test_the_list_for_people_says_size_and_licence(capsys: Capture) -> None:
    assert run(["fetch", "--list"]) == 0
    assert "Apache-2.0" in capsys.readouterr().out


def test_what_was_fetched_is_told_with_its_folder(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    def instead(aliases: tuple[str, ...], **_: object) -> dict[str, Path]:
        return {alias: cache / alias for alias in aliases}

    monkeypatch.setattr("fedrelease.fetch.fetch_all", instead)
    assert run(["fetch", "minilm", "trec", "minilm", "--json"]) == 0
    fetched = json.loads(capsys.readouterr().out)["fetched"]
    assert [(one["alias"], one["path"]) for one in fetched] == [
        ("minilm", str(cache / "minilm")),
        ("trec", str(cache / "trec")),
    ]


def test_a_fetch_that_fails_exits_1_with_its_reason(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def instead(*_: object, **__: object) -> None:
        raise FetchError("no network", value="minilm", hint="go online")

    monkeypatch.setattr("fedrelease.fetch.fetch_all", instead)
    assert run(["fetch", "minilm"]) == 1
    assert capsys.readouterr().err == "error: no network\n  given: minilm\n  try:   go online\n"


def test_an_unknown_alias_exits_1_and_names_the_known_ones(capsys: Capture) -> None:
    assert run(["fetch", "minilmm", "--json"]) == 1
    assert "minilm" in json.loads(capsys.readouterr().out)["error"]["rule"]


def checks(capsys: Capture) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


def test_the_doctor_reports_versions_and_what_is_not_fetched(capsys: Capture, tmp_path: Path) -> None:
    run(["doctor", "--json", "--store", str(tmp_path / "new")])
    found = checks(capsys)
    assert found["python"]["status"] == "ok"
    assert found["torch"]["found"].startswith("2.")
    assert found["fetched"]["advice"].endswith("fedrelease fetch minilm four-sites")
    assert found["store"]["status"] == "ok"


def test_a_store_that_cannot_be_written_fails_with_what_to_do(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run(["doctor", "--json", "--store", str(tmp_path / "file")]) == 1
    store = checks(capsys)["store"]
    assert (store["status"], store["advice"]) == ("fail", "name another with --store")


def test_a_library_that_is_missing_fails_and_an_untested_version_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedrelease.cli.doctor import _library

    assert _library("no-such-library", ">=1").status == "fail"
    assert _library("torch", ">=999").status == "warn"


def test_ray_is_optional_and_the_doctor_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    from fedrelease.cli.doctor import _ray

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert (_ray().status, _ray().found) == ("ok", "not installed (optional)")
    assert 'pip install -c constraints.txt "fedrelease[ray]"' in _ray().advice
    monkeypatch.setattr(metadata, "version", lambda name: "2.55.1")
    assert (_ray().found, _ray().advice) == ("2.55.1", "")


def test_a_check_that_breaks_is_itself_a_finding(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken() -> None:
        raise RuntimeError("no such file in this container")

    monkeypatch.setattr("psutil.virtual_memory", broken)
    assert run(["doctor", "--store", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "RuntimeError: no such file in this container" in said
    assert "1 of these must be mended first." in said
