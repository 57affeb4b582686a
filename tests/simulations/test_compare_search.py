"""Searches before a comparison, with real processes: equal chances, the same trials again, and what is chosen is what runs."""

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from compared import finished
from federations import Federation, eventually

from fedrelease.accounting import Segment, spent
from fedrelease.client.ledger import Ledger
from fedrelease.errors import ExperimentError, StoreError
from fedrelease.experiment import Experiment
from fedrelease.experiment_file import load_experiment
from fedrelease.files import Json
from fedrelease.server.store import Store
from fedrelease.simulations.compare.events import Pace
from fedrelease.simulations.compare.files import write_files
from fedrelease.simulations.compare.plan import Plan, Run, make_plan
from fedrelease.simulations.compare.results import Finished, Results, Trial, best_of
from fedrelease.simulations.compare.run import Begun, Ended, Progress, Tried, compare
from fedrelease.simulations.compare.search import search, tuned
from fedrelease.simulations.compare.searched import search_document, search_lines
from fedrelease.simulations.compare.tuning import Wanted
from fedrelease.simulations.compare.verdict import judge

TRIALS = 2
FAILS = "fedavg:weighting=examples"
"""With privacy, sites do not tell their counts."""
STRATEGIES = ("fedavg", "fedadam", FAILS)
KEYS = ("training.lr=1e-3..1e-1", "strategy.lr=0.01..0.5")
ONE_ROUND = ("phase.0.rounds=1",)


def plan_of(federation: Federation, *, trials: int = TRIALS, keys: tuple[str, ...] = KEYS) -> Plan:
    experiment = load_experiment(federation.file, ONE_ROUND)
    return make_plan(experiment, strategies=STRATEGIES, sweeps=(), seeds=1, search=Wanted(trials=trials, keys=keys))


def ran(federation: Federation, out: Path, plan: Plan, watch: Progress = lambda event: None) -> Results:
    return compare(plan, out=out, cache=federation.cache, workers=1, watch=watch, say=lambda line: None)


def lines(results: Results) -> list[Mapping[str, Json]]:
    """search.jsonl, times aside."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in search_lines(results)]


def faked(out: Path, objective: str, fails: int = 0) -> tuple[Plan, tuple[Trial, ...]]:
    """A search of 4 trials of two variants without any run: the accuracy is 0.5 plus the learning rate; one trial may fail."""
    wanted = Wanted(trials=4, keys=("training.lr=0.1..0.3",), objective=objective)
    plan = make_plan(Experiment(), strategies=("fedavg", "median"), sweeps=(), seeds=1, search=wanted)

    def run(one: Run) -> Finished:
        return finished(one, None if one.trial == fails else 0.5 + one.experiment.training.lr)

    assert plan.search is not None
    out.joinpath("search", "fedavg").mkdir(parents=True, exist_ok=True)
    out.joinpath("search", "median").mkdir(parents=True, exist_ok=True)
    made = search(plan, plan.search, out=out, run=run, pace=Pace(runs=8), watch=lambda event: None)
    return plan, made


@pytest.mark.parametrize(("objective", "below"), [("accuracy", 0.0), ("worst-site", 0.02)])
def test_the_objective_is_that_of_the_last_round_and_the_highest_is_chosen(
    objective: str, below: float, tmp_path: Path
) -> None:
    """The worst site of these runs is 0.02 below the mean."""
    plan, trials = faked(tmp_path, objective)
    rates = [float(trial.values["training.lr"]) for trial in trials if trial.run.variant.name == "fedavg"]
    assert [trial.objective for trial in trials if trial.run.variant.name == "fedavg"] == [
        pytest.approx(0.5 + rate - below) for rate in rates
    ]
    assert [variant.experiment.training.lr for variant in tuned(plan, trials).variants] == [max(rates)] * 2


def test_variants_with_one_space_are_tried_with_the_same_values_until_their_results_differ(tmp_path: Path) -> None:
    _, trials = faked(tmp_path, "accuracy")
    for number in (1, 2, 3, 4):
        assert len({trial.values["training.lr"] for trial in trials if trial.run.trial == number}) == 1


def test_a_trial_that_failed_is_never_chosen_and_keeps_its_place(tmp_path: Path) -> None:
    _, trials = faked(tmp_path, "accuracy", fails=2)
    best = best_of(trials, "median")
    assert [trial.objective is None for trial in trials] == [False, False, True, True, False, False, False, False]
    assert best is not None and best.run.trial != 2


@dataclass(frozen=True, kw_only=True)
class Searched:
    """One search that nobody disturbed, and the comparison after it."""

    out: Path
    results: Results
    events: list[object]


@pytest.fixture(scope="module")
def searched(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    out, events = tmp_path_factory.mktemp("searched") / "out", list[object]()
    return Searched(out=out, results=ran(federation, out, plan_of(federation), events.append), events=events)


def test_every_variant_gets_the_same_number_of_trials_and_failed_ones_count(searched: Searched) -> None:
    tried = [(trial.run.variant.name, trial.run.trial) for trial in searched.results.trials]
    assert tried == [(name, number) for number in (1, 2) for name in STRATEGIES]
    assert {trial.run.variant.name for trial in searched.results.trials if trial.objective is None} == {FAILS}


def test_trials_have_a_seed_that_no_run_of_the_comparison_has(searched: Searched) -> None:
    heads = [Store.open(trial.run.store(searched.out)) for trial in searched.results.trials if trial.objective]
    assert {load_experiment(None, text=saved(store)).federation.seed for store in heads} == {1007}
    assert {run.run.seed for run in searched.results.runs} == {7}


def saved(store: Store) -> str:
    """The experiment that lies in a store's newest release."""
    head = store.head()
    assert head is not None
    (entry,) = [entry for entry in head.manifest.files if entry.path == "experiment.toml"]
    return store.blob_path(entry.sha256).read_text()


def test_the_final_runs_have_the_values_that_the_search_chose_as_their_own_manifests_tell(searched: Searched) -> None:
    for run in searched.results.of("fedadam"):
        told = load_experiment(None, text=saved(Store.open(run.run.store(searched.out))))
        best = best_of(searched.results.trials, "fedadam")
        assert best is not None
        assert told.training.lr == best.values["training.lr"]
        assert told.phases[0].strategy.knobs["lr"] == best.values["fedadam.lr"]
        assert best.objective == max(
            trial.objective or 0.0 for trial in searched.results.trials if trial.run.variant.name == "fedadam"
        )


def test_the_first_trial_has_the_values_that_the_variant_had_before(searched: Searched) -> None:
    firsts = {trial.run.variant.name: trial.values for trial in searched.results.trials if trial.run.trial == 1}
    assert firsts["fedavg"] == {"training.lr": 0.01}
    assert firsts["fedadam"] == {"training.lr": 0.01, "fedadam.lr": 0.1}


def test_a_variant_whose_trials_all_failed_is_not_compared_and_says_why(searched: Searched) -> None:
    (run,) = searched.results.of(FAILS)
    assert run.failed == "none of the 2 trials of its search ended with an accuracy"
    document = search_document(searched.results)
    assert document is not None
    (lost,) = [one for one in document["variants"] if one["variant"] == FAILS]  # type: ignore[index,union-attr,call-overload]
    assert lost["chosen"] is None and len(lost["failed"]) == 2  # type: ignore[index,arg-type,call-overload]


def test_the_files_tell_the_search(searched: Searched) -> None:
    verdict = judge(searched.results, baseline="fedavg")
    made = write_files(searched.results, verdict, out=searched.out, command="fedrelease compare")
    told = [json.loads(line) for line in made["trials"].read_text().splitlines()]
    assert [line["chosen"] for line in told].count(True) == 2
    assert made["search"].read_bytes()[:4] == b"\x89PNG"
    page = made["report"].read_text()
    assert "<h2>Search</h2>" in page and "fedadam.lr=" in page and "every trial is paid for" in page
    assert "trial 2: " in page


def test_progress_counts_trials_and_runs_and_estimates_both(searched: Searched) -> None:
    tried = [event for event in searched.events if isinstance(event, Tried)]
    ended = [event for event in searched.events if isinstance(event, Ended)]
    assert [(event.number, event.total) for event in tried] == [(number, 6) for number in range(1, 7)]
    assert tried[-1].left and ended[-1].left == 0


def test_the_price_of_the_search_is_all_its_charges_on_a_sites_rows_composed(searched: Searched) -> None:
    """Of three variants only two end, but a charge is made before training: all six trials are paid for."""
    costs = []
    for site in ("a", "b"):
        found = sorted((searched.out / "search").glob(f"*/trial-*.sites/{site}/ledger.jsonl"))
        entries = [entry for path in found for entry in Ledger(path).entries()]
        for pool in ("train", "holdout"):
            segments = [Segment(e.noise_multiplier, e.sample_rate, e.steps) for e in entries if e.pool == pool]
            costs.append(spent(segments, delta=1e-5, accountant="rdp"))
        assert len(found) == 6
    assert searched.results.search_epsilon == pytest.approx(max(costs))
    one = max(trial.finished.last.epsilon or 0.0 for trial in searched.results.trials if trial.finished.last)
    assert searched.results.search_epsilon > 1.5 * one


def test_typed_again_no_trial_is_repeated_not_even_a_failed_one(searched: Searched, federation: Federation) -> None:
    events = list[object]()
    again = ran(federation, searched.out, plan_of(federation), events.append)
    assert lines(again) == lines(searched.results)
    begun = [event.run for event in events if isinstance(event, Begun)]
    assert [(run.variant.name, run.trial) for run in begun] == [(FAILS, None)]


@pytest.mark.slow
def test_a_search_that_is_killed_ends_with_the_trials_and_digests_of_one_that_is_not(
    searched: Searched, federation: Federation, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    typed = ["compare", str(federation.file), "--strategies", ",".join(STRATEGIES), "--seeds", "1", "--out", str(out)]
    typed += ["--trials", str(TRIALS), "--workers", "1", *(word for key in KEYS for word in ("--search", key))]
    process = federation.start(*typed, *(word for setting in ONE_ROUND for word in ("--set", setting)))
    begun = out / "search" / "fedadam" / "trial-1" / "versions" / "0.0.0.json"
    eventually(begun.exists, why="the second variant has begun", within_s=120)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "search" / "fedadam" / "trial-1.json").exists()
    resumed = ran(federation, out, plan_of(federation))
    assert lines(resumed) == lines(searched.results)
    assert [run.digests for run in resumed.runs] == [run.digests for run in searched.results.runs]


@pytest.mark.parametrize(("trials", "keys"), [(TRIALS + 1, KEYS), (TRIALS, KEYS[:1])])
def test_another_search_in_the_same_folder_is_refused(
    trials: int, keys: tuple[str, ...], searched: Searched, federation: Federation
) -> None:
    with pytest.raises(StoreError, match="another comparison") as caught:
        ran(federation, searched.out, plan_of(federation, trials=trials, keys=keys))
    assert "search: trials 2" in str(caught.value)


def test_a_record_of_other_values_is_refused_and_nothing_is_overwritten(federation: Federation, tmp_path: Path) -> None:
    record = tmp_path / "out" / "search" / "fedavg" / "trial-1.json"
    plan = plan_of(federation)
    record.parent.mkdir(parents=True)
    (tmp_path / "out" / "comparison.json").write_text(json.dumps(plan.to_json()))
    record.write_text('{"values": {"training.lr": 0.5}, "failed": null}')
    with pytest.raises(StoreError, match="this trial cannot be taken up: it is of other values"):
        ran(federation, tmp_path / "out", plan)
    assert "0.5" in record.read_text()


def test_without_optuna_the_refusal_names_the_extra(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util

    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(ExperimentError, match="Optuna is not installed") as caught:
        plan_of(federation)
    assert 'pip install -c constraints.txt "fedrelease[search]"' in caught.value.hint
