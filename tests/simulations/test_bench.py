"""The benchmark on a tiny federation: both sides do the same work, and its numbers are numbers. No time is asserted."""

import json
import os
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tiny import experiment_text, make_rows

from fedrelease.errors import EngineError, ExperimentError
from fedrelease.experiment import Experiment
from fedrelease.experiment_file import load_experiment
from fedrelease.server.events import Opened, Released, RoundStarted, SiteAnswered
from fedrelease.simulations.bench.__main__ import main
from fedrelease.simulations.bench.measure import Bench, measure
from fedrelease.simulations.bench.process import run_module
from fedrelease.simulations.bench.report import document, show
from fedrelease.simulations.bench.timeline import Timeline
from fedrelease.simulations.bench.usage import Usage


def experiment(base: Path, folder: Path, **settings: str) -> Experiment:
    rows = make_rows(folder / "rows.csv", sites=("a", "b", "c"), rows=30)
    return load_experiment(None, text=experiment_text(base, rows, **settings))


@pytest.fixture(scope="module")
def bench(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One pair; two phases with two strategies, and cohorts of two sites out of three: not everybody trains in every round."""
    folder = tmp_path_factory.mktemp("bench")
    phase = 'sites_per_round = 2\n[[phase]]\nname = "broad"\nrounds = 1\nstrategy = "ffa-lora"'
    return measure(
        experiment(tiny_base, folder, phase=phase, privacy='accountant = "rdp"'),
        repeats=1,
        workers=2,
        folder=folder / "out",
        cache=folder / "cache",
        say=lambda line: None,
        warm_up=False,
    )


@pytest.mark.slow
def test_the_bare_twin_ends_in_the_same_state_bit_for_bit(bench: Bench) -> None:
    assert len(bench.states) == 1
    assert len(bench.states[0]) == 64


@pytest.mark.slow
def test_the_twin_looks_at_every_hold_out_after_every_round(bench: Bench) -> None:
    losses = bench.pairs[0].bare.losses
    assert len(losses) == bench.experiment.rounds * len(bench.sites) == 9
    assert all(0 < loss < 10 for loss in losses)


@pytest.mark.slow
def test_the_numbers_are_sane(bench: Bench) -> None:
    ours, bare = bench.pairs[0].ours, bench.pairs[0].bare
    assert min(ours.start_s, ours.base_s, ours.seconds, bare.start_s, bare.seconds) > 0
    assert sum(ours.steps.values()) == pytest.approx(ours.seconds)
    assert sum(bare.steps.values()) == pytest.approx(bare.seconds, rel=0.05, abs=0.05)
    assert bare.busy_s is not None and 0 < bare.busy_s <= bench.workers * bare.seconds
    assert min(ours.peak_bytes, bare.peak_bytes) > 10_000_000
    assert bench.overhead == (1 - bare.seconds / ours.seconds,)


@pytest.mark.slow
def test_stores_of_the_runs_are_gone_afterwards(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    folders = [path for path in tmp_path_factory.getbasetemp().glob("bench*/out/*") if path.name.startswith("work-")]
    assert folders == []


@pytest.mark.slow
def test_the_document_is_json_and_its_summary_holds_what_matters(bench: Bench) -> None:
    found = json.loads(json.dumps(document(bench), allow_nan=False))
    summary = found["summary"]
    assert summary["equal_states"] is True
    assert summary["overhead"]["min"] <= summary["overhead"]["median"] <= summary["overhead"]["max"] < 1
    assert summary["examples_per_s"]["ours"] > 0 and 0 <= summary["idle"] < 1
    assert [pair["ours"]["state"] for pair in found["pairs"]] == summary["states"]


@pytest.mark.slow
def test_the_table_says_overhead_first_and_that_states_are_equal(bench: Bench) -> None:
    console = Console(width=200, markup=False, highlight=False, file=StringIO())
    with console.capture() as captured:
        show(bench, console)
    text = captured.get()
    assert text.startswith("overhead ")
    assert "last states of all runs: equal" in text and "peak memory" in text


def test_a_federation_without_privacy_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    plain = experiment(tiny_base, tmp_path, privacy='unit = "none"')
    with pytest.raises(ExperimentError, match="private federations"):
        measure(plain, repeats=1, workers=1, folder=tmp_path, cache=tmp_path / "cache", say=lambda line: None)


def test_a_run_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"(?s)the run nothing ended with status 1.*No module named"):
        run_module("nothing", tmp_path / "task.json", threads=None)


def test_a_number_below_one_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--rounds", "0"])
    assert refused.value.code == 2
    assert "0 is below 1" in capsys.readouterr().err


@pytest.fixture
def clock() -> Iterator[float]:
    return iter([10.0, 12.0, 15.0, 16.0, 16.5, 17.0, 20.0])


def test_steps_add_up_from_the_first_round_to_the_last_release(clock: Iterator[float]) -> None:
    timeline = Timeline(now=lambda: next(clock))
    released = Released(version="0.1.1", digest="", metrics={}, epsilon=None, bytes_up=0, bytes_down=0, seconds=0.0)
    started = RoundStarted(version="0.1.1", phase="main", round=1, cohort=("a",), spooled=())
    timeline.hear(Opened(head=None, resumed=False, sites=("a",), rounds=2, rounds_done=0))  # 10.0
    timeline.hear(started)  # 12.0
    timeline.hear(answered("train"))  # 15.0
    timeline.hear(answered("evaluate"))  # 16.0
    timeline.hear(released)  # 16.5
    timeline.hear(started)  # 17.0
    timeline.hear(released)  # 20.0
    assert (timeline.opened, timeline.first, timeline.last) == (10.0, 12.0, 20.0)
    assert timeline.seconds() == {"train": 3.0, "evaluate": 1.0, "publish": 3.5, "between": 0.5}


def answered(step: str) -> SiteAnswered:
    return SiteAnswered(version="0.1.1", step=step, site="a", refused=None, epsilon=None)


def test_peak_memory_is_at_least_what_this_process_holds() -> None:
    with Usage(os.getpid()) as usage:
        pass
    assert usage.peak_bytes > 10_000_000
