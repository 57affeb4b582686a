"""Strategies under attack in a comparison: which runs there are, and the table that they come to."""

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from compared import finished, make_results
from pytest import approx

from fedrelease.attack import Attack
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment
from fedrelease.simulations.compare.attack_table import attack_cells, attack_headers, under_attack
from fedrelease.simulations.compare.figures import figures
from fedrelease.simulations.compare.files import write_files
from fedrelease.simulations.compare.plan import Plan, make_plan
from fedrelease.simulations.compare.report import report_html
from fedrelease.simulations.compare.results import Results
from fedrelease.simulations.compare.verdict import judge


def plan_of(*attacks: str, experiment: Experiment | None = None, seeds: int = 2) -> Plan:
    return make_plan(
        experiment or Experiment(), strategies=("fedavg", "median"), sweeps=(), seeds=seeds, attacks=attacks
    )


def attacks_of(plan: Plan) -> dict[str, Attack]:
    return {variant.name: variant.experiment.attack for variant in plan.variants}


def results_of(plan: Plan, numbers: Mapping[str, tuple[float | None, ...]], backdoor: float | None = None) -> Results:
    """``numbers``: a kind's accuracies by seed, for all strategies."""
    runs = [finished(run, numbers[run.experiment.attack.kind][run.seed - 7]) for run in plan.runs()]
    return Results(plan=plan, runs=tuple(replace(run, backdoor=backdoor) for run in runs))


def test_attacks_are_the_same_plan_as_varying_their_kind_from_none() -> None:
    typed = make_plan(Experiment(), strategies=("fedavg",), sweeps=("attack.kind=none,sign-flip,scaling",), seeds=2)
    assert (
        make_plan(Experiment(), strategies=("fedavg",), sweeps=(), seeds=2, attacks=("sign-flip", "scaling")) == typed
    )
    assert [one.attack.share for one in (variant.experiment for variant in typed.variants)] == [0.2, 0.2, 0.2]


def test_share_and_trigger_are_the_experiments_and_a_strength_goes_with_its_own_kind_only() -> None:
    own = Attack(kind="sign-flip", share=0.4, strength=9.0, trigger="xyz")
    assert attacks_of(plan_of("sign-flip", "scaling", experiment=Experiment(attack=own))) == {
        f"{strategy} attack.kind={kind}": attack
        for strategy in ("fedavg", "median")
        for kind, attack in {
            "none": Attack(),
            "sign-flip": own,
            "scaling": replace(own, kind="scaling", strength=None),
        }.items()
    }


@pytest.mark.parametrize(
    ("attacks", "sweeps", "text"),
    [
        (("none",), (), "no attack is named"),
        (("sign-flip", "sign-flip"), (), "twice"),
        (("magic",), (), "magic"),
        (("sign-flip",), ("attack.kind=none,scaling",), "twice"),
    ],
)
def test_attacks_that_cannot_be_compared_are_refused(
    attacks: tuple[str, ...], sweeps: tuple[str, ...], text: str
) -> None:
    with pytest.raises(ExperimentError, match=text):
        make_plan(Experiment(), strategies=("fedavg",), sweeps=sweeps, seeds=1, attacks=attacks)


def test_what_is_kept_is_taken_seed_by_seed_from_the_strategys_own_clean_runs() -> None:
    """0.4 / 0.8 and 0.45 / 0.6: 0.5 and 0.75, in the mean 0.625."""
    results = results_of(
        plan_of("sign-flip", "scaling"), {"none": (0.8, 0.6), "sign-flip": (0.4, 0.45), "scaling": (None, 0.3)}
    )
    flipped, scaled = (under_attack(results)["median", kind] for kind in ("sign-flip", "scaling"))
    assert (flipped.accuracy, flipped.kept, flipped.kept_low) == (approx(0.425), approx(0.625), approx(0.5))
    assert (flipped.accuracy_low, flipped.accuracy_high, flipped.seeds) == (0.4, 0.45, 2)
    assert (scaled.accuracy, scaled.kept, scaled.seeds) == (0.3, approx(0.5), 1), "by the seed that finished"
    assert attack_headers(results) == ["strategy", "none", "sign-flip", "scaling"]
    assert attack_cells(results)[0] == ["fedavg", "0.700", "0.425 (62 %)", "0.300 (50 %)"]


def test_the_folder_and_the_report_have_the_table_with_the_backdoors_success(tmp_path: Path) -> None:
    results = results_of(plan_of("backdoor"), {"none": (0.8, 0.8), "backdoor": (0.76, 0.76)}, backdoor=0.25)
    verdict = judge(results, baseline="fedavg attack.kind=none")
    made = write_files(results, verdict, out=tmp_path, command="x")
    assert made["attacks"].read_bytes()[:4] == b"\x89PNG"
    rows = list(csv.DictReader(made["attack-table"].read_text().splitlines()))
    assert [(row["strategy"], row["attack"], row["backdoor"]) for row in rows] == [
        (strategy, kind, "0.25") for strategy in ("fedavg", "median") for kind in ("none", "backdoor")
    ]
    assert float(rows[1]["kept"]) == approx(0.95)
    assert "<td>0.760 (95 %), took 0.25</td>" in report_html(results, verdict, {}, command="x")


def test_an_experiment_with_hostile_sites_has_the_table_without_any_flag() -> None:
    """Nothing was run without them, so that nothing is kept of anything."""
    plan = plan_of(experiment=Experiment(attack=Attack(kind="scaling")))
    results = results_of(plan, {"scaling": (0.4, 0.6)})
    assert list(attacks_of(plan)) == ["fedavg", "median"]
    assert attack_cells(results) == [["fedavg", "0.500"], ["median", "0.500"]]
    assert "attacks.png" in figures(results, judge(results, baseline="fedavg"))


def test_without_hostile_sites_there_is_no_table(tmp_path: Path) -> None:
    results = make_results({"0.1": (0.8, 0.7), "0.2": (0.75, 0.72)})
    verdict = judge(results, baseline=results.names()[0])
    assert under_attack(results) == {}
    assert not {"attacks", "attack-table"} & set(write_files(results, verdict, out=tmp_path, command="x"))
    assert "Under attack" not in report_html(results, verdict, {}, command="x")


def test_without_strategies_attacks_are_set_against_averaging_and_rules_that_need_few_sites() -> None:
    plan = make_plan(Experiment(), strategies=(), sweeps=(), seeds=1, attacks=("scaling",))
    assert [name for name in attacks_of(plan) if name.endswith("=none")] == [
        f"{rule} attack.kind=none" for rule in ("fedavg", "median", "trimmed-mean", "geometric-median")
    ]
