import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from example_store import adapter, make_store, manifest_of

from fedrelease.cli import run
from fedrelease.cli.page import privacy_sentence
from fedrelease.manifest import MetricsFacts
from fedrelease.server.journal import entry_for
from fedrelease.server.store import Store

Capture = pytest.CaptureFixture[str]


def read(capsys: Capture, *arguments: str, code: int = 0) -> str:
    assert run(arguments) == code
    return capsys.readouterr().out


def where(store: Store) -> list[str]:
    return ["--store", str(store.folder)]


def test_the_log_is_newest_first_and_never_cuts_a_version(
    example_store: Store, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = read(capsys, "log", *where(example_store)).splitlines()
    starts = [line.split()[0] for line in lines if line[:1].isdigit() and line[1] == "."]
    assert starts == ["0.1.4", "0.1.3", "0.1.2", "0.1.1", "0.0.0"]


def test_a_wide_log_shows_every_column(example_store: Store, capsys: Capture) -> None:
    header, newest = read(capsys, "log", *where(example_store)).splitlines()[:2]
    assert (
        header
        == "version  channels           when              phase  round  strategy  sites  accuracy  worst site   "
        + ("epsilon  verdict")
    )
    assert newest.split()[:3] == ["0.1.4", "candidate,", "stable"]
    assert newest.endswith("main       4  fedavg      4/4     0.800  0.740 movie     6.00  released")


@pytest.mark.parametrize(("columns", "kept"), [(60, False), (100, False), (160, True)])
def test_a_narrow_log_leaves_out_columns_and_cuts_nothing(
    example_store: Store, capsys: Capture, monkeypatch: pytest.MonkeyPatch, columns: int, kept: bool
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = read(capsys, "log", *where(example_store))
    assert ("strategy" in shown) is kept
    assert "…" not in shown


def test_a_failed_round_is_told_with_its_reason(example_store: Store, capsys: Capture) -> None:
    assert "round 5 made no release: 1 of 4 sites answered" in read(capsys, "log", *where(example_store))


def test_the_log_document_has_the_keys_of_the_contract(example_store: Store, capsys: Capture) -> None:
    document = json.loads(read(capsys, "log", "--json", *where(example_store)))
    newest = document["releases"][-1]
    contract = (
        "version digest parents phase round verdict channels labels strategy cohort accepted refused metrics epsilon"
    )
    assert set(contract.split()) | {"bytes_up", "bytes_down", "seconds"} <= newest.keys()
    assert (newest["metrics"]["accuracy"], newest["metrics"]["worst_site"]) == (0.8, 0.74)
    assert document["channels"] == {"candidate": "0.1.4", "stable": "0.1.4"}
    assert document["releases"][3]["verdict"] == "held"


def test_the_log_document_is_oldest_first_and_links_to_parents(example_store: Store, capsys: Capture) -> None:
    releases = json.loads(read(capsys, "log", "--json", *where(example_store)))["releases"]
    assert [release["version"] for release in releases] == ["0.0.0", "0.1.1", "0.1.2", "0.1.3", "0.1.4"]
    assert releases[1]["parents"] == [releases[0]["digest"]]
    assert releases[2]["refused"][0]["site"] == "tweets"


def test_what_sites_keep_private_is_null(tmp_path: Path, capsys: Capture) -> None:
    store = make_store(tmp_path / "store", rounds=1, told=False)
    newest = json.loads(read(capsys, "log", "--json", *where(store)))["releases"][-1]
    assert newest["metrics"] == {"accuracy": None, "worst_site": None, "worst_site_name": None, "sites": {}}
    assert "-" in read(capsys, "log", *where(store))
    assert "the sites keep their metrics private" in read(capsys, "show", *where(store))


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path, capsys: Capture) -> None:
    store = Store.create_or_open(tmp_path / "store")
    assert "fedrelease simulate" in read(capsys, "log", *where(store))
    read(capsys, "show", *where(store), code=1)


def test_the_page_of_a_release_has_all_sections_and_who_was_refused(example_store: Store, capsys: Capture) -> None:
    page = read(capsys, "show", "0.1.2", *where(example_store))
    for title in ("identity", "model", "round", "privacy", "metrics", "files", "environment"):
        assert f"\n{title}\n" in page
    assert example_store.find("0.1.2").digest in page
    assert "epsilon   3.00 until now" in page


def test_a_site_cannot_send_escapes_to_the_readers_terminal(example_store: Store, capsys: Capture) -> None:
    page = read(capsys, "show", "0.1.2", *where(example_store))
    assert "\x1b" not in page
    assert "not finite \\x1b[2J[red]" in page


@pytest.mark.parametrize("ref", [(), ("stable",), ("0.1.4",)])
def test_a_release_is_found_by_default_by_channel_and_by_version(
    example_store: Store, capsys: Capture, ref: tuple[str, ...]
) -> None:
    assert read(capsys, "show", *ref, *where(example_store)).startswith(
        "four-sites 0.1.4  released  candidate, stable\n"
    )


def test_the_document_of_a_release_holds_its_whole_manifest(example_store: Store, capsys: Capture) -> None:
    document = json.loads(read(capsys, "show", "0.1.2", "--json", *where(example_store)))
    manifest = asdict(example_store.find("0.1.2").manifest)
    assert document["manifest"] == json.loads(json.dumps(manifest))
    assert document["version"] == "0.1.2"


def test_an_unknown_release_exits_1_and_names_those_that_exist(example_store: Store, capsys: Capture) -> None:
    error = json.loads(read(capsys, "show", "9.9.9", "--json", *where(example_store), code=1))["error"]
    assert error["value"] == "9.9.9"
    assert "0.1.4" in error["hint"]


def test_a_whole_store_verifies(example_store: Store, capsys: Capture) -> None:
    document = json.loads(read(capsys, "verify", "--json", *where(example_store)))
    assert (document["ok"], document["problems"]) == (True, [])
    assert read(capsys, "verify", "0.1.2", *where(example_store)).startswith("ok: ")


def test_one_changed_byte_exits_1_and_names_the_file(example_store: Store, capsys: Capture) -> None:
    path = example_store.find("0.1.2").path("adapter")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    document = json.loads(read(capsys, "verify", "--json", *where(example_store), code=1))
    assert document["ok"] is False
    assert any(path.name in problem["path"] for problem in document["problems"])
    assert "adapter.safetensors" in read(capsys, "verify", *where(example_store), code=1)


def test_epsilon_is_explained_by_the_factor_it_allows() -> None:
    assert "a factor of e^1.00 = 2.72, plus 1e-05" in privacy_sentence(1.0, 1e-5)
    assert "= 2,981, plus" in privacy_sentence(8.0, 1e-5)
    assert "e^800.00, plus" in privacy_sentence(800.0, 1e-5)


def test_the_residual_of_factors_is_told_with_the_round_and_not_as_a_hold_out_metric(
    tmp_path: Path, capsys: Capture
) -> None:
    store = make_store(tmp_path / "store", rounds=0)
    parent = store.find("0.0.0")
    told = replace(
        manifest_of(1, parents=(parent.digest,)),
        metrics=MetricsFacts(server={"accuracy": 0.5, "lora_residual": 0.0625}),
    )
    with store.lock():
        store.put_blob(adapter(1))
        store.publish(
            told, entry_for(told, channels=(), time="2031-05-01T12:00:00+00:00", seconds=1.0, bytes_up=1, bytes_down=1)
        )
    page = read(capsys, "show", "0.1.1", *where(store))
    assert "0.0625 of the mean of products" in page
    assert "server hold-out" in page and "lora_residual" not in page
    assert "mean of products" not in read(capsys, "show", "0.0.0", *where(store))
