"""The table of rules against attacks: what it says is what federations ended with."""

import json
from pathlib import Path

import pytest
from pytest import approx

from fedrelease.simulations.bench import attacks
from fedrelease.simulations.bench.attack_runs import ATTACKS, RULES, TASKS, Point, kept
from fedrelease.strategies import STRATEGIES


def point(rule: str, attack: str, accuracy: float) -> Point:
    return Point(rule=rule, attack=attack, accuracy=accuracy, backdoor=0.25)


POINTS = [
    point("fedavg", "none", 0.8),
    point("fedavg", "sign-flip", 0.2),
    point("median", "none", 0.5),
    point("median", "sign-flip", 0.48),
]


def test_what_a_rule_keeps_is_measured_by_its_own_accuracy_without_an_attack() -> None:
    """0.2 / 0.8 and 0.48 / 0.5."""
    assert (kept(POINTS, "fedavg", "sign-flip"), kept(POINTS, "median", "sign-flip")) == (approx(0.25), approx(0.96))


def test_the_table_marks_what_is_below_95_percent(capsys: pytest.CaptureFixture[str]) -> None:
    attacks._show(POINTS, attacks.wide_console())
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["rule", "none", "sign-flip", "backdoor", "took"]
    assert (out[1].split(), out[2].split()) == (["fedavg", "0.800", "0.200!", "-"], ["median", "0.500", "0.480", "-"])


def test_every_rule_of_the_table_exists_and_every_task_has_rows_for_the_server() -> None:
    assert set(RULES) <= set(STRATEGIES) and "none" in ATTACKS
    assert all(task.data.server_holdout > 0 for task in TASKS.values())


def test_a_run_writes_prints_and_tells_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDRELEASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(attacks.torch, "set_num_threads", lambda count: None)
    small = ["--rules", "fedavg,median", "--attacks", "sign-flip", "--sites", "5", "--rounds", "2", "--json"]
    assert attacks.main([*small, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert document == json.loads((tmp_path / "out" / "attacks.json").read_text(encoding="utf-8"))
    assert [(one["attack"], one["rule"]) for one in document["points"]] == [
        ("none", "fedavg"),
        ("none", "median"),
        ("sign-flip", "fedavg"),
        ("sign-flip", "median"),
    ]
    assert document["keeps"]["fedavg"] == {"sign-flip": False}
    assert told.err.count("accuracy") == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["attacks.json"], "federations leave nothing behind"


@pytest.mark.parametrize("typed", [["--rules", "fedavg,magic"], ["--attacks", "magic"], ["--task", "magic"]])
def test_what_there_is_not_is_refused(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        attacks.main(typed)
    assert "magic" in capsys.readouterr().err


def test_a_share_out_of_bounds_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(attacks.torch, "set_num_threads", lambda count: None)
    assert attacks.main(["--share", "0.9", "--out", str(tmp_path / "out")]) == 2
    assert "attack.share" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
