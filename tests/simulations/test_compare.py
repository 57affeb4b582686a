"""Whole comparisons with real processes: auditable, resumable, and honest about runs that fail."""

import json
import os
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import Undisturbed  # of this folder
from federations import Federation, eventually

from fedrelease.errors import ExperimentError, StoreBusy, StoreError
from fedrelease.experiment_file import load_experiment
from fedrelease.server.lock import hold
from fedrelease.server.store import Store
from fedrelease.server.verify import verify
from fedrelease.simulations.compare.files import write_files
from fedrelease.simulations.compare.plan import Plan, make_plan
from fedrelease.simulations.compare.results import Results
from fedrelease.simulations.compare.run import Begun, Ended, Progress, compare
from fedrelease.simulations.compare.verdict import judge

STRATEGIES = ("fedavg", "ffa-lora", "fedavg:weighting=examples")
"""The last one fails: with privacy, sites do not tell their counts."""


def plan_of(federation: Federation, *strategies: str, seeds: int = 2) -> Plan:
    return make_plan(load_experiment(federation.file), strategies=strategies or STRATEGIES, sweeps=(), seeds=seeds)


def ran(federation: Federation, out: Path, plan: Plan, watch: Progress = lambda event: None) -> Results:
    return compare(plan, out=out, cache=federation.cache, workers=1, watch=watch, say=lambda line: None)


def lines(out: Path, results: Results) -> list[Mapping[str, object]]:
    """results.jsonl, times and places aside."""
    made = write_files(results, judge(results, baseline="fedavg"), out=out, command="x")
    found = [json.loads(line) for line in made["results"].read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One comparison that nobody disturbed."""

    out: Path
    results: Results
    lines: list[Mapping[str, object]]
    events: list[object]


@pytest.fixture(scope="module")
def compared(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    out, events = tmp_path_factory.mktemp("compared") / "out", list[object]()
    results = ran(federation, out, plan_of(federation), events.append)
    return Compared(out=out, results=results, lines=lines(out, results), events=events)


def test_the_first_run_of_the_experiments_own_strategy_is_what_simulate_makes_of_it(
    compared: Compared, undisturbed: Undisturbed
) -> None:
    assert compared.results.of("fedavg")[0].digests[-1] == undisturbed.digest


def test_every_run_leaves_a_store_that_can_be_audited(compared: Compared, federation: Federation) -> None:
    for run in plan_of(federation, "fedavg", "ffa-lora").runs():
        store = Store.open(run.store(compared.out))
        assert [release.version for release in store.releases()] == ["0.0.0", "0.1.1", "0.1.2"]
        assert verify(store).problems == ()
    assert (compared.out / "runs" / "ffa-lora" / "seed-8" / "store.json").exists()


def test_a_run_that_fails_is_told_with_its_reason_and_the_others_go_on(compared: Compared) -> None:
    failed = compared.results.failures()
    assert [(one.run.variant.name, one.run.seed) for one in failed] == [(STRATEGIES[2], 7), (STRATEGIES[2], 8)]
    assert all("keeps its number of examples private" in (one.failed or "") for one in failed)
    assert all(one.last is not None for name in STRATEGIES[:2] for one in compared.results.of(name))
    told = [line for line in compared.lines if line["failed"]]
    assert [(line["variant"], line["accuracy"]) for line in told] == [(STRATEGIES[2], None)] * 2


def test_progress_tells_each_run_and_estimates_the_rest_after_the_first(compared: Compared) -> None:
    begun = [event.run.variant.name for event in compared.events if isinstance(event, Begun)]
    ended = [event for event in compared.events if isinstance(event, Ended)]
    assert begun == list(STRATEGIES) * 2
    assert [(event.number, event.total) for event in ended] == [(number, 6) for number in range(1, 7)]
    assert all(event.left is not None and event.seconds is not None for event in ended)
    assert ended[-1].left == 0


def test_typed_again_finished_runs_are_read_and_not_run(compared: Compared, federation: Federation) -> None:
    plan, events = replace(plan_of(federation)), list[object]()
    again = ran(federation, compared.out, plan, events.append)
    assert lines(compared.out, again) == compared.lines
    assert {event.run.variant.name for event in events if isinstance(event, Begun)} == {STRATEGIES[2]}
    done = [event for event in events if isinstance(event, Ended) and event.seconds is None]
    assert len(done) == 4


@pytest.mark.slow
def test_a_comparison_that_is_killed_ends_with_the_results_of_one_that_is_not(
    compared: Compared, federation: Federation, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    begun = out / "runs" / "ffa-lora" / "seed-7" / "versions" / "0.0.0.json"
    typed = ("compare", str(federation.file), "--strategies", ",".join(STRATEGIES), "--seeds", "2", "--out", str(out))
    process = federation.start(*typed, "--workers", "1")
    eventually(begun.exists, why="the second run has begun")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "results.jsonl").exists()
    assert lines(out, ran(federation, out, plan_of(federation))) == compared.lines


@pytest.mark.parametrize(
    ("strategies", "seeds", "settings", "said"),
    [
        (STRATEGIES[:2], 2, (), r"variants: fedavg, ffa-lora, .* -> fedavg, ffa-lora"),
        (STRATEGIES, 3, (), r"seeds: 7, 8 -> 7, 8, 9"),
        (STRATEGIES, 2, ("training.lr=0.5",), r"training.lr: 0.01 -> 0.5"),
    ],
)
def test_another_plan_in_the_same_folder_is_refused_with_what_differs(
    compared: Compared,
    federation: Federation,
    strategies: tuple[str, ...],
    seeds: int,
    settings: tuple[str, ...],
    said: str,
) -> None:
    before = sorted(compared.out.rglob("*"))
    plan = make_plan(load_experiment(federation.file, settings), strategies=strategies, sweeps=(), seeds=seeds)
    with pytest.raises(StoreError, match="another comparison") as caught:
        ran(federation, compared.out, plan)
    assert re.search(said, str(caught.value)), str(caught.value)
    assert sorted(compared.out.rglob("*")) == before


def _a_file(out: Path) -> None:
    out.write_text("mine")


def _others_files(out: Path) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("mine")


def _a_broken_plan(out: Path) -> None:
    out.mkdir()
    (out / "comparison.json").write_text('{"experiment": 1')


def _a_foreign_plan(out: Path) -> None:
    out.mkdir()
    (out / "comparison.json").write_text("[]")


@pytest.mark.parametrize("make", [_a_file, _others_files, _a_broken_plan, _a_foreign_plan])
def test_a_folder_of_something_else_is_refused_and_stays_as_it_is(
    make: Callable[[Path], None], federation: Federation, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    make(out)
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.name != ".lock"}
    with pytest.raises(StoreError, match="--out|another folder"):
        ran(federation, out, plan_of(federation))
    assert {path: path.read_bytes() for path in out.rglob("*.*") if path.name != ".lock"} == before


def test_two_at_once_in_one_folder_are_refused(federation: Federation, tmp_path: Path) -> None:
    with hold(tmp_path / ".lock"), pytest.raises(StoreBusy):
        ran(federation, tmp_path, plan_of(federation))


@pytest.mark.parametrize("setting", ['privacy.metrics="withheld"', "federation.evaluators=0"])
def test_an_experiment_that_nobody_measures_is_refused_before_hours_of_work(
    setting: str, federation: Federation, tmp_path: Path
) -> None:
    plan = make_plan(load_experiment(federation.file, [setting]), strategies=STRATEGIES[:2], sweeps=(), seeds=1)
    with pytest.raises(ExperimentError, match="no release of this experiment would have an accuracy"):
        ran(federation, tmp_path / "out", plan)
    assert not (tmp_path / "out").exists()


def test_a_rule_that_breaks_in_a_way_nobody_foresaw_fails_its_own_run_only(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedrelease.strategies.ffa_lora import FFALoRA

    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(FFALoRA, "aggregate", broken)
    results = ran(federation, tmp_path / "out", plan_of(federation, "ffa-lora", "fedavg", seeds=1))
    (failed,) = results.failures()
    assert failed.failed is not None and failed.failed.startswith(
        "unexpected ZeroDivisionError: division by zero; see "
    )
    assert "Traceback" in Path(failed.failed.partition("see ")[2]).read_text()
    assert results.of("fedavg")[0].last is not None
