"""The benchmark of the rules, on a few small updates."""

import json
from pathlib import Path

import pytest

from fedrelease.simulations.bench.aggregate import main


def test_each_rule_is_measured_beside_a_plain_sum_and_nothing_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--updates", "20", "--parameters", "9000", "--rules", "fedavg", "--out", str(tmp_path), "--json"]
    assert main(asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"plain", "fedavg"}
    assert found["plain"]["times_plain"] == 1.0
    assert all(told["seconds"] > 0 and told["gb_per_s"] > 0 for told in found.values())
    assert not list(tmp_path.iterdir())


def test_a_rule_that_there_is_not_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--rules", "fedavgg", "--out", str(tmp_path / "out")]) != 0
    assert "did you mean fedavg" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
