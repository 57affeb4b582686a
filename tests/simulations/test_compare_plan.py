"""Which runs a comparison has, and what it refuses before anything runs."""

import re

import pytest

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Adapter, Experiment, Federation, Model, Phase, StrategyChoice, Training
from fedrelease.simulations.compare.plan import Plan, default_strategies, make_plan, parse_strategy
from fedrelease.simulations.compare.verdict import baseline_of
from fedrelease.strategies import STRATEGIES

TWO_PHASES = Experiment(phases=(Phase(name="a", rounds=1), Phase(name="b", rounds=2)))


def planned(*strategies: str, vary: tuple[str, ...] = (), seeds: int = 2, experiment: Experiment = TWO_PHASES) -> Plan:
    return make_plan(experiment, strategies=strategies, sweeps=vary, seeds=seeds)


def test_all_variants_of_a_seed_come_before_the_next_seed_and_seeds_go_up_from_the_experiments_own() -> None:
    experiment = Experiment(federation=Federation(seed=40))
    runs = [(run.variant.name, run.seed) for run in planned("fedavg", "ffa-lora", experiment=experiment).runs()]
    assert runs == [("fedavg", 40), ("ffa-lora", 40), ("fedavg", 41), ("ffa-lora", 41)]
    assert [run.experiment.federation.seed for run in planned("fedavg", "ffa-lora").runs()] == [7, 7, 8, 8]


def test_a_strategy_with_its_knobs_is_in_every_phase_and_nothing_else_differs() -> None:
    plain, weighted = planned("fedavg", "fedavg:weighting=examples").variants
    assert plain.experiment == TWO_PHASES
    assert [phase.strategy.knobs for phase in weighted.experiment.phases] == [{"weighting": "examples"}] * 2
    assert weighted.experiment.training == plain.experiment.training


@pytest.mark.parametrize(
    ("text", "knobs"),
    [("fedavg", {}), (" fedavg:weighting=uniform", {"weighting": "uniform"}), ("fedavg:weighting='examples'", None)],
)
def test_a_knob_is_toml_or_bare_text(text: str, knobs: dict[str, str] | None) -> None:
    assert parse_strategy(text) == StrategyChoice(
        name="fedavg", knobs={"weighting": "examples"} if knobs is None else knobs
    )


def test_swept_keys_give_all_combinations_of_the_experiments_own_strategies() -> None:
    plan = planned(vary=("training.lr=1e-4,1e-3", "training.epochs=1,2"))
    names = [variant.name for variant in plan.variants]
    assert names[0] == "training.lr=1e-4 training.epochs=1"
    assert (len(names), len(set(names))) == (4, 4)
    assert [variant.experiment.training.lr for variant in plan.variants] == [1e-4, 1e-4, 1e-3, 1e-3]
    assert all(variant.experiment.phases == TWO_PHASES.phases for variant in plan.variants)
    assert planned(vary=("training.lr=1e-4,1e-3;training.epochs=1,2",)).variants == plan.variants


def test_strategies_and_swept_keys_multiply() -> None:
    names = [one.name for one in planned("fedavg", "ffa-lora", vary=("training.lr=0.1,0.2",)).variants]
    assert names == [
        "fedavg training.lr=0.1",
        "fedavg training.lr=0.2",
        "ffa-lora training.lr=0.1",
        "ffa-lora training.lr=0.2",
    ]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_without_a_choice_eight_that_the_adapter_allows_are_compared_and_all_of_them_exist(kind: str) -> None:
    adapter = Adapter(kind=kind)
    experiment = Experiment(model=Model(adapter=adapter))
    listed = default_strategies(experiment)
    plan = make_plan(experiment, strategies=(), sweeps=(), seeds=3)
    assert tuple(variant.name for variant in plan.variants) == listed
    assert len({parse_strategy(text).name for text in listed} & STRATEGIES.keys()) == 8
    assert any("lora" in text for text in listed) == (kind == "lora")


def test_every_variant_has_a_folder_of_its_own_that_any_system_can_name() -> None:
    many = planned(vary=("training.lr=0.1,0.2", f"model.base=minilm,{'x/' * 300},{'x/' * 299}"), seeds=1).variants
    folders = [variant.folder for variant in many]
    assert len({folder.casefold() for folder in folders}) == len(many) == 6
    assert all(len(folder) < 100 and "/" not in folder for folder in folders)


@pytest.mark.parametrize(
    ("strategies", "vary", "seeds", "said"),
    [
        (("fedavg", "fedavgg"), (), 1, r"unknown strategy.*ffa-lora.*did you mean fedavg"),
        (("fedavg:mu=1", "ffa-lora"), (), 1, "no knob called mu.*knobs are weighting"),
        (("fedavg:weighting", "ffa-lora"), (), 1, "name:knob=value"),
        (("fedavg:weighting=votes", "ffa-lora"), (), 1, "examples or uniform"),
        (("",), (), 1, "not empty"),
        (("fedavg",), (), 1, "one variant is no comparison"),
        (("fedavg", "fedavg"), (), 1, "two variants are the same"),
        ((), ("training.lr",), 1, "section.key=a,b"),
        ((), ("training.lr=0.1,,0.2",), 1, "section.key=a,b"),
        ((), ("training.lr=0.1,0.1",), 1, "twice"),
        ((), ("training.lr=0.1,0.2", "training.lr=0.3,0.4"), 1, "twice"),
        ((), ("training.lr=0.1,1e-1",), 1, "two variants are the same"),
        ((), ("training.lrr=0.1,0.2",), 1, "training.lr"),
        ((), ("training.lr=0.1,-1",), 1, "training.lr"),
        ((), ("federation.seed=1,2",), 1, "--seeds"),
        ((), ("data.limit_per_site=10,20",), 1, "same rows"),
        ((), ("phase.0.strategy=fedavg,ffa-lora",), 1, "--strategies"),
        ((), ("phase.0.strategy.weighting=uniform,examples",), 1, "--strategies"),
        ((), (), 0, "1 to 1000"),
        ((), (), 1001, "1 to 1000"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_way_out(
    strategies: tuple[str, ...], vary: tuple[str, ...], seeds: int, said: str
) -> None:
    with pytest.raises(ExperimentError) as caught:
        planned(*strategies, vary=vary, seeds=seeds)
    assert re.search(said, str(caught.value), re.DOTALL), str(caught.value)


def test_the_highest_seed_of_all_runs_has_to_exist() -> None:
    last = Experiment(federation=Federation(seed=2**31 - 2))
    assert planned("fedavg", "ffa-lora", experiment=last, seeds=2).seeds == (2**31 - 2, 2**31 - 1)
    with pytest.raises(ExperimentError, match="seeds run out"):
        planned("fedavg", "ffa-lora", experiment=last, seeds=3)


def test_the_baseline_is_the_named_one_else_fedavg_else_the_first() -> None:
    rates = planned(vary=("training.lr=0.1,0.2",))
    assert baseline_of(planned("ffa-lora", "fedavg"), None) == "fedavg"
    assert baseline_of(planned("ffa-lora", "fedavg"), "ffa-lora") == "ffa-lora"
    assert baseline_of(rates, None) == "training.lr=0.1"
    with pytest.raises(ExperimentError, match=r"training.lr=0.1, training.lr=0.2"):
        baseline_of(rates, "fedavg")


def test_a_plan_differs_from_another_in_what_it_writes_down() -> None:
    one = planned("fedavg", "ffa-lora").to_json()
    assert one == planned("fedavg", "ffa-lora").to_json()
    others = [
        planned("fedavg", "ffa-lora", seeds=3),
        planned("fedavg", "ffa-lora:weighting=examples"),
        planned("fedavg", "ffa-lora", experiment=Experiment(training=Training(lr=0.5), phases=TWO_PHASES.phases)),
    ]
    assert all(other.to_json() != one for other in others)
