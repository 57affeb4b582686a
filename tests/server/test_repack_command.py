"""Packing from the command line."""

import json
import tempfile
from pathlib import Path

import pytest
from full_examples import make_full_store

from fedrelease.cli import run


def test_repack_lists_first_then_packs_and_says_how_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedrelease.server.packed._rooms", {})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    at = ("--store", str(make_full_store(tmp_path / "releases", rounds=2).folder))
    assert run(["repack", *at]) == 0
    assert "2 files, " in (said := capsys.readouterr().out) and "nothing was packed" in said
    assert run(["repack", "--apply", "--json", *at]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["applied"] and [file["version"] for file in told["files"]] == ["0.1.0", "0.1.1"]
    assert told["after"] == sum(file["after"] for file in told["files"]) < told["bytes"]
    assert run(["repack", *at]) == 0
    assert capsys.readouterr().out.startswith("nothing to pack")
