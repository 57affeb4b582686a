"""What the command line says of trackers."""

import json
from pathlib import Path

import pytest

from fedrelease.cli import run
from fedrelease.experiment import Experiment
from fedrelease.server.store import Store
from fedrelease.server.tracking.choice import Tracking, chosen_trackers
from fedrelease.server.tracking.following import tell_releases

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("verb", ["simulate", "compare"])
def test_a_tracker_that_does_not_exist_is_refused_before_anything_is_made(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([verb, "--track", "mlfow"]) == 2
    assert "try:   mlflow?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_show_names_the_runs_of_a_release(example_store: Store, tmp_path: Path, capsys: Capture) -> None:
    place = tmp_path / "runs"
    tell_releases(example_store, Experiment(), Tracking(choices=chosen_trackers([f"tensorboard:{place}"])))
    (made,) = place.iterdir()
    assert run(["show", "0.1.1", "--store", str(example_store.folder)]) == 0
    assert f"tensorboard  run {made.name} in " in capsys.readouterr().out
    assert run(["show", "0.1.1", "--store", str(example_store.folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["tracking"]
    assert told == [{"tracker": "tensorboard", "run": made.name, "where": "../runs"}]


def test_show_says_nothing_of_trackers_where_there_are_none(example_store: Store, capsys: Capture) -> None:
    assert run(["show", "0.1.1", "--store", str(example_store.folder)]) == 0
    assert "tracking" not in capsys.readouterr().out
