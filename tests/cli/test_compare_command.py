"""The command ``compare`` over results that are made of numbers; whole comparisons are in tests/simulations."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from compared import KEY, finished

from fedrelease.cli import run
from fedrelease.simulations.compare.plan import Plan, Run
from fedrelease.simulations.compare.results import Results, Trial

Capture = pytest.CaptureFixture[str]
RATES = ("compare", "--vary", "training.lr=0.1,0.2", "--seeds", "3")


class Runner:
    """Stands in for the runs: every variant gets 0.1 times its place plus a bit for each seed; one may fail."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.fails: Callable[[int, int], bool] = lambda place, seed: False

    def __call__(self, plan: Plan, *, out: Path, watch: Callable[[object], None], **_: object) -> Results:
        from fedrelease.simulations.compare.run import Begun, Ended

        self.plan, made = plan, []
        names = [variant.name for variant in plan.variants]
        for number, one in enumerate(plan.runs(), 1):
            place = names.index(one.variant.name)
            accuracy = 0.8 - 0.1 * place + 0.01 * ((one.seed * (place + 1)) % 3)
            made.append(finished(one, None if self.fails(place, one.seed) else accuracy))
            watch(Begun(run=one, number=number, total=6))
            watch(Ended(finished=made[-1], number=number, total=6, seconds=30.0, left=30.0 * (6 - number)))
        return Results(plan=plan, runs=tuple(made), **self.searched(plan, watch))

    def searched(self, plan: Plan, watch: Callable[[object], None]) -> dict[str, Any]:
        """Two trials of each variant: the first comes to 0.6; the second to 0.7, or fails for the second variant."""
        from fedrelease.simulations.compare.run import Tried

        trials = list[Trial]()
        for number in (1, 2) if plan.search else ():
            for place, variant in enumerate(plan.variants):
                objective = None if (number, place) == (2, 1) else 0.5 + 0.1 * number
                one = finished(Run(variant=variant, seed=1007, experiment=variant.experiment, trial=number), objective)
                trials.append(Trial(finished=one, values={KEY: 0.1 * number}, objective=objective))
                watch(Tried(trial=trials[-1], number=len(trials), total=4, seconds=30.0, left=150.0))
        return {"trials": tuple(trials), "search_epsilon": 21.5} if trials else {}


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runner:
    import fedrelease.simulations.compare.run as real

    module, made = ModuleType(real.__name__), Runner()
    module.__dict__.update({name: getattr(real, name) for name in real.__all__}, compare=made)
    monkeypatch.setitem(sys.modules, real.__name__, module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "comparison").mkdir()
    return made


def test_a_comparison_ends_with_its_table_its_verdict_and_its_files(
    runner: Runner, tmp_path: Path, capsys: Capture
) -> None:
    assert run(RATES) == 0
    said = capsys.readouterr()
    table = said.out.splitlines()
    assert table[1].split()[:2] == ["training.lr=0.1", "0.8100"]
    assert any(line.startswith(("training.lr=0.1 wins", "Not decided")) for line in table)
    assert (tmp_path / "comparison" / "report.html").read_text().startswith("<!doctype html>")
    assert (
        "fedrelease compare --vary training.lr=0.1,0.2 --seeds 3"
        in (tmp_path / "comparison" / "report.html").read_text()
    )


def test_the_plan_comes_first_and_then_a_line_for_each_run_with_what_is_left(runner: Runner, capsys: Capture) -> None:
    assert run([*RATES, "--set", "federation.seed=40"]) == 0
    talk = capsys.readouterr().err
    assert "four-sites: 2 variants, 3 seeds" in talk and "3 (40 to 42)" in talk and "6, each a federation" in talk
    assert "(varied)" in talk
    assert "run 1/6  training.lr=0.1, seed 40  accuracy 0.8" in talk
    assert "about 2:30 left" in talk
    assert talk.count("seed 42") == 2


def test_json_is_the_contract_and_nothing_else(runner: Runner, capsys: Capture) -> None:
    runner.fails = lambda place, seed: (place, seed) == (1, 8)
    assert run([*RATES, "--json", "--quiet"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert said.err == ""
    contract = {"name", "seeds", "runs", "failed", "baseline", "variants", "winner", "more_seeds", "verdict", "files"}
    assert contract <= document.keys()
    assert document["failed"] == [{"variant": "training.lr=0.2", "seed": 8, "reason": "too few sites <answered>"}]
    assert [(one["variant"], one["runs"], one["failed"]) for one in document["variants"]] == [
        ("training.lr=0.1", 3, 0),
        ("training.lr=0.2", 3, 1),
    ]
    assert document["seeds"] == [7, 8, 9]


def test_attacks_end_with_their_table_and_the_report_says_how_to_repeat_it(
    runner: Runner, tmp_path: Path, capsys: Capture
) -> None:
    """fedavg: 0.81, 0.82, 0.80 without and 0.72, 0.71, 0.70 with it: 0.89, 0.87 and 0.88 of it, in the mean 88 %."""
    typed = ("compare", "--strategies", "fedavg,median", "--attacks", "scaling", "--seeds", "3")
    assert run(typed) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["strategy", "none", "scaling"] in lines
    assert ["fedavg", "0.810", "0.710", "(88", "%)"] in lines
    assert " ".join(typed) in (tmp_path / "comparison" / "report.html").read_text()
    assert run([*typed, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["attacks"]
    assert [(one["strategy"], one["attack"]) for one in told] == [
        (strategy, kind) for strategy in ("fedavg", "median") for kind in ("none", "scaling")
    ]


def test_a_failed_run_is_named_and_only_a_comparison_without_any_result_exits_1(
    runner: Runner, capsys: Capture
) -> None:
    runner.fails = lambda place, seed: place == 1
    assert run([*RATES, "-q"]) == 0
    assert "training.lr=0.2, seed 8  too few sites <answered>" in capsys.readouterr().out
    runner.fails = lambda place, seed: True
    assert run([*RATES, "-q"]) == 1


def test_without_a_choice_the_built_in_experiment_and_the_listed_strategies_run_with_three_seeds(
    runner: Runner,
) -> None:
    from fedrelease.simulations.compare.plan import default_strategies

    assert run(["compare", "-q"]) == 0
    assert runner.plan is not None
    assert runner.plan.experiment.federation.name == "four-sites"
    listed = default_strategies(runner.plan.experiment)
    assert (tuple(one.name for one in runner.plan.variants), len(runner.plan.seeds)) == (listed, 3)
    assert len(listed) == 8 and "flexlora" in listed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--strategies", "fedavg,fedsgdd"), "ffa-lora"),
        (("--strategies", "fedavg,fedavg:mu=1"), "no knob called mu"),
        (("--strategies", ""), "not empty"),
        (("--strategies", "fedavg,"), "not empty"),
        (("--vary", "training.lrr=1,2"), "training.lr"),
        (("--vary", "training.lr"), "section.key=a,b"),
        (("--seeds", "0"), "0 is not at least 1"),
        (("--seeds", "x"), "x"),
        (("--workers", "0"), "0 is not at least 1"),
        (("--baseline", "nobody"), "--baseline is one of: fedavg"),
        (("nowhere.toml",), "no such experiment"),
        (("--set", "training.lr=-1"), "training.lr"),
        (("--trials", "0"), "0 is not at least 1"),
        (("--trials", "x"), "x"),
        (("--search", "training.lr=0.1..1"), "--search without --trials"),
        (("--objective", "accuracy"), "--objective without --trials"),
        (("--trials", "2", "--objective", "loss"), "--objective is one of accuracy, worst-site"),
        (("--trials", "2", "--search", "training.lr=1..0.1"), "this range is empty"),
        (("--trials", "2", "--search", "training.lr"), "this is no key with a space"),
        (("--trials", "2", "--search", "training.lrr=0.1..1"), "training.lr"),
        (("--trials", "2", "--search", "strategy.mou=0.1..1"), "no such knob: strategy.mou"),
        (("--trials", "2", "--search", "privacy.epsilon=1..9"), "privacy.epsilon cannot be searched"),
    ],
)
def test_what_is_typed_wrong_exits_2_without_a_traceback_and_nothing_runs(
    runner: Runner, arguments: tuple[str, ...], said: str, capsys: Capture
) -> None:
    assert run(["compare", *arguments]) == 2
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told
    assert runner.plan is None


SEARCH = ("compare", "--strategies", "fedavg,fedadam", "--trials", "2", "--search", f"{KEY}=0.05..0.5")


def test_a_search_is_told_before_the_table_with_what_it_chose_what_failed_and_what_it_would_cost(
    runner: Runner, capsys: Capture
) -> None:
    assert run(SEARCH) == 0
    said = capsys.readouterr()
    assert "2 trials of every variant, seed 1007" in said.err and "training.lr=0.05..0.5" in said.err
    assert "trial 3/4  fedavg  training.lr=0.2  objective 0.700  30 s  about 2:30 left" in said.err
    chosen = [line.split() for line in said.out.splitlines()[1:3]]
    assert chosen == [
        ["fedavg", "training.lr=0.2", "2", "0.7000", "0", "of", "2"],
        ["fedadam", "training.lr=0.1", "1", "0.6000", "1", "of", "2"],
    ]
    assert "fedadam, trial 2  too few sites <answered>" in said.out
    assert "would have spent epsilon 21.50 at delta 1e-05 on the search alone" in said.out


def test_json_has_the_search_or_null_and_the_report_repeats_its_flags(
    runner: Runner, tmp_path: Path, capsys: Capture
) -> None:
    assert run([*SEARCH, "--json", "-q", "--objective", "worst-site"]) == 0
    document = json.loads(capsys.readouterr().out)
    search = document["search"]
    assert (search["trials"], search["seed"], search["objective"], search["epsilon"]) == (2, 1007, "worst-site", 21.5)
    assert [(one["variant"], one["chosen"], one["trial"]) for one in search["variants"]] == [
        ("fedavg", {KEY: 0.2}, 2),
        ("fedadam", {KEY: 0.1}, 1),
    ]
    assert search["variants"][1]["failed"] == [{"trial": 2, "reason": "too few sites <answered>"}]
    page = (tmp_path / "comparison" / "report.html").read_text()
    assert "--trials 2 --search training.lr=0.05..0.5 --objective worst-site" in page
    assert run([*RATES, "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["search"] is None


def test_a_search_is_left_out_of_what_is_written_where_there_is_none(runner: Runner, tmp_path: Path) -> None:
    assert run([*RATES, "-q"]) == 0
    assert not {"search.jsonl", "search.png"} & {path.name for path in (tmp_path / "comparison").iterdir()}
    assert "<h2>Search</h2>" not in (tmp_path / "comparison" / "report.html").read_text()
