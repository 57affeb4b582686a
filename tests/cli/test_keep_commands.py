"""Keeping a store from the command line: what is said, and that a dry run changes nothing."""

import json
from pathlib import Path

import pytest
from example_store import make_store

from fedrelease.cli import run
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

Capture = pytest.CaptureFixture[str]


def typed(capsys: Capture, *arguments: str, code: int = 0) -> str:
    assert run(list(arguments)) == code
    return capsys.readouterr().out


def test_gc_lists_what_would_go_and_removes_it_only_when_told(example_store: Store, capsys: Capture) -> None:
    with example_store.lock():
        path = example_store.blob_path(example_store.put_blob(b"left over"))
    at = ("--store", str(example_store.folder))
    said = typed(capsys, "gc", *at)
    assert "0 leftovers, 0 bytes would be removed; no release refers to any of them" in said
    assert "1 more are younger than 24h and stay" in said
    said = typed(capsys, "gc", "--grace", "0s", *at)
    assert f"blobs/sha256/{path.name}" in said and "nothing was removed: fedrelease gc --apply" in said
    assert path.exists()
    document = json.loads(typed(capsys, "gc", "--grace", "0s", "--apply", "--json", *at))
    leftover = {"kind": "blob", "path": f"blobs/sha256/{path.name}", "size": 9}
    swept = {"applied": True, "grace": "0s", "bytes": 9, "young": 0, "leftovers": [leftover]}
    nothing = {"releases": None, "held": None, "memory": None, "updates": None}
    assert document == {**swept, "retention": nothing, "leaving": [], "staying": [], "leaving_bytes": 0}
    assert not path.exists() and verify(example_store).ok


def test_gc_removes_temporary_files_and_says_so(example_store: Store, capsys: Capture) -> None:
    (example_store.folder / "tmp" / "half").write_bytes(b"1234")
    said = typed(capsys, "gc", "--apply", "--store", str(example_store.folder))
    assert "tmp/half" in said and "1 leftovers, 4 bytes removed" in said
    assert not (example_store.folder / "tmp" / "half").exists()


def test_a_wrong_grace_is_refused_with_an_example(example_store: Store, capsys: Capture) -> None:
    said = json.loads(typed(capsys, "gc", "--grace", "1 day", "--json", "--store", str(example_store.folder), code=1))
    assert said["error"]["value"] == "1 day" and said["error"]["hint"] == "--grace 24h"


def test_fsck_says_what_repair_would_do_and_does_it(example_store: Store, capsys: Capture) -> None:
    at = ("--store", str(example_store.folder))
    assert typed(capsys, "fsck", *at).startswith("ok: ")
    path = example_store.folder / "versions" / "0.1.1.json"
    path.chmod(0o644)
    said = typed(capsys, "fsck", *at, code=1)
    assert "versions/0.1.1.json" in said and "make it read-only" in said and "1 problems" in said
    document = json.loads(typed(capsys, "fsck", "--json", *at, code=1))
    assert (document["ok"], document["head"], len(document["flaws"])) == (False, "0.1.4", 1)
    said = typed(capsys, "fsck", "--repair", *at)
    assert "mended: versions/0.1.1.json" in said and "head 0.1.4" in said
    assert json.loads(typed(capsys, "fsck", "--repair", "--json", *at))["mended"] == []


def test_what_repair_cannot_mend_is_still_named_after_it(example_store: Store, capsys: Capture) -> None:
    path = example_store.find("0.1.2").path("adapter")
    path.chmod(0o644)
    path.write_bytes(b"other")
    log = example_store.folder / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b"12:01:00", b"12:01:01"))
    said = typed(capsys, "fsck", "--repair", "--store", str(example_store.folder), code=1)
    assert "not repaired: " in said and "not help: restore it from a copy" in said


def test_repack_leaves_adapters_alone_and_says_why(example_store: Store, capsys: Capture) -> None:
    said = typed(capsys, "repack", "--apply", "--store", str(example_store.folder))
    assert said == "nothing to pack: only releases of whole models are, and what is packed stays so\n"


def test_push_and_pull_say_what_travelled(example_store: Store, capsys: Capture, tmp_path: Path) -> None:
    there, at = str(tmp_path / "there"), ("--store", str(example_store.folder))
    said = typed(capsys, "push", there, "--dry-run", *at)
    assert "would travel" in said and not (tmp_path / "there").exists()
    document = json.loads(typed(capsys, "push", there, "--json", *at))
    assert document["lines"] == 6 and document["dry_run"] is False and document["place"] == there
    generation = document["generation"]
    assert typed(capsys, "push", there, *at) == f"nothing to do: {there} is at generation {generation}\n"
    said = typed(capsys, "pull", there, "--store", str(tmp_path / "here"))
    assert f"{document['files']} files" in said and f"is at generation {generation}" in said
    assert verify(Store.open(tmp_path / "here")).ok
    error = json.loads(typed(capsys, "pull", str(tmp_path / "none"), "--json", code=1))["error"]
    assert error["what"] == "no release store here"


def test_gc_says_what_stays_though_the_numbers_would_let_it_go(example_store: Store, capsys: Capture) -> None:
    """1 released one stays by number, and no held one; stable was at 0.1.1 first, and 0.1.4 came from 0.1.3."""
    numbers = ("--set", "retention.releases=1", "--set", "retention.held=0", "--store", str(example_store.folder))
    said = typed(capsys, "gc", *numbers)
    assert "0.0.0 stays: it is the base" in said and "0.1.3 stays: the next step is compared with" in said
    assert "0.1.1 stays: candidates are compared with it, the anchor" in said
    document = json.loads(typed(capsys, "gc", "--json", *numbers))
    assert document["retention"] == {"releases": 1, "held": 0, "memory": None, "updates": None}
    assert [one["version"] for one in document["staying"]] == ["0.0.0", "0.1.1", "0.1.2", "0.1.3"]
    assert document["leaving"] == []


def test_commands_on_a_retired_release_say_when_by_which_rule_and_the_way_out(tmp_path: Path, capsys: Capture) -> None:
    """Released are all but 0.1.3; 0.1.6 and 0.1.7 stay by number, 0.0.0 and 0.1.1 as base and anchor."""
    store = make_store(tmp_path / "store", rounds=7)
    at, numbers = ("--store", str(store.folder)), ("--set", "retention.releases=2")
    said = typed(capsys, "gc", *numbers, *at)
    assert "3 things of old releases" in said and "nothing was removed: fedrelease gc --apply" in said
    assert gone(store) == []
    planned = json.loads(typed(capsys, "gc", "--json", *numbers, *at))["leaving"]
    assert json.loads(typed(capsys, "gc", "--apply", "--json", *numbers, *at))["leaving"] == planned
    assert gone(store) == [one["version"] for one in planned] == ["0.1.2", "0.1.4", "0.1.5"]
    for verb in ("verify", "fsck"):
        assert "3 files of 0.1.2, 0.1.4, 0.1.5 were retired on " in typed(capsys, verb, *at)
        assert json.loads(typed(capsys, verb, "--json", *at))["retired"][0]["version"] == "0.1.2"
    assert "adapter.safetensors on " in typed(capsys, "show", "0.1.2", *at)
    assert "retire  0.1.7" in typed(capsys, "log", "--graph", *at)
    for arguments in (["promote", "0.1.2", "--to", "beta"], ["diff", "0.1.2", "0.1.7"]):
        error = json.loads(typed(capsys, *arguments, "--json", *at, code=1))["error"]
        assert error["what"].startswith("adapter.safetensors of release 0.1.2 was retired on ")
        assert "retention.releases = 2" in error["rule"] and "fedrelease pull" in error["hint"]


def test_gc_takes_numbers_of_retention_only(example_store: Store, capsys: Capture) -> None:
    at = ("--json", "--store", str(example_store.folder))
    error = json.loads(typed(capsys, "gc", "--set", "training.lr=1", *at, code=2))["error"]
    assert error["hint"] == "--set retention.releases=20"


def gone(store: Store) -> list[str]:
    """Releases with a file that is not there."""
    every = ((release.version, file.sha256) for release in store.releases() for file in release.manifest.files)
    return [version for version, sha256 in every if not store.blob_path(sha256).exists()]
