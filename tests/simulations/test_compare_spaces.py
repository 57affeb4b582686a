"""What a search may try: the grammar, the spaces of each variant, and what comes out of them; nothing runs."""

import re
from dataclasses import replace

import pytest

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment, Federation, StrategyChoice
from fedrelease.simulations.compare.plan import Plan, default_strategies, make_plan
from fedrelease.simulations.compare.proposals import Proposals
from fedrelease.simulations.compare.searched import search_setting
from fedrelease.simulations.compare.spaces import DEFAULTS, Choices, Range, Space, Value, parse_space
from fedrelease.simulations.compare.tuning import Wanted, own_values, with_values
from fedrelease.strategies import STRATEGIES, make_strategy


def planned(*strategies: str, keys: tuple[str, ...] = (), vary: tuple[str, ...] = (), **more: str) -> Plan:
    wanted = Wanted(trials=4, keys=keys, **more)
    return make_plan(Experiment(), strategies=strategies, sweeps=vary, seeds=2, search=wanted)


def spaces(plan: Plan, variant: str) -> dict[str, str]:
    assert plan.search is not None
    return {key: str(space) for key, space in plan.search.spaces[variant].items()}


@pytest.mark.parametrize(
    ("text", "space"),
    [
        ("1e-4..1e-2", Range(low=1e-4, high=1e-2, log=True)),
        ("0.5..0.9:linear", Range(low=0.5, high=0.9, log=False)),
        ("1..8", Range(low=1, high=8, log=True)),
        ("0..1", Range(low=0, high=1, log=False)),
        ("-1.5..2", Range(low=-1.5, high=2.0, log=False)),
        ("1,2,4", Choices(values=(1, 2, 4))),
        ("uniform, examples", Choices(values=("uniform", "examples"))),
        ("true,false", Choices(values=(True, False))),
        ("0.1", Choices(values=(0.1,))),
    ],
)
def test_a_space_is_a_range_on_a_log_scale_where_that_is_possible_or_a_list(text: str, space: Space) -> None:
    assert parse_space(text) == space
    assert parse_space(str(space)) == space


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (("training.lr",), "this is no key with a space"),
        (("training.lr=",), "this is no key with a space"),
        (("training.lr=1e-2..1e-4",), "this range is empty"),
        (("training.lr=0.1..0.1",), "this range is empty"),
        (("training.lr=a..b",), "this is no range"),
        (("training.lr=0.1..inf",), "this is no range"),
        (("training.lr=..",), "this is no range"),
        (("training.weight_decay=0..1:log",), "no log scale"),
        (("training.lr=0.1,,0.2",), "no values to search"),
        (("training.lr=0.1,0.1",), "a value is there twice"),
        (("training.lr=0.1..1", "training.lr=0.2..1"), "names a key twice"),
        (("training.lrr=0.1..1",), r"training\.lr\b"),
        (("training.lr=-1..1",), "--search training.lr=-1..1: training.lr is out of bounds"),
        (("training.batch_size=1.5..8",), "whole numbers only"),
        (("training.optimizer=1..8",), "takes no numbers"),
        (("training.optimizer=adamw,adam",), "training.optimizer is out of bounds"),
        (("privacy.epsilon=1..8",), "privacy.epsilon cannot be searched"),
        (("data.holdout=0.1..0.2",), "data.holdout cannot be searched"),
        (("federation.seed=1..9",), "cannot be searched"),
        (("phase.0.rounds=1..9",), "cannot be searched"),
        (("strategy.mou=0.1..1",), "no such knob: strategy.mou"),
        (("fedadam.mu=0.1..1",), "knobs of fedadam are beta1, beta2, lr, tau, weighting"),
        (("strategy.mu=0.1..1",), "no variant searches strategy.mu"),
        (("strategy.lr=-1..1",), "phase.strategy.lr is out of bounds"),
        (("training.lr=0.01",), "fedavg has nothing to search"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_before_anything_runs(keys: tuple[str, ...], said: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        planned("fedavg", "fedadam", keys=keys)
    assert re.search(said, str(caught.value)), str(caught.value)


def test_a_key_is_varied_or_searched_and_not_both() -> None:
    with pytest.raises(ExperimentError, match="a key is varied and searched"):
        planned(keys=("training.lr=0.1..1",), vary=("training.lr=0.1,0.2",))
    found = planned("fedadam", vary=("training.lr=0.1,0.2",))
    assert spaces(found, "fedadam training.lr=0.1") == {"fedadam.lr": "0.001..1"}


def test_shared_keys_have_one_space_and_a_knob_is_searched_for_those_who_have_it_which_is_said() -> None:
    plan = planned("fedavg", "fedadam", "fedprox", keys=("training.lr=1e-4..1e-2", "strategy.lr=0.1..2"))
    assert spaces(plan, "fedavg") == {"training.lr": "0.0001..0.01"}
    assert spaces(plan, "fedadam") == {"training.lr": "0.0001..0.01", "fedadam.lr": "0.1..2"}
    assert spaces(plan, "fedprox") == {"training.lr": "0.0001..0.01", "fedprox.mu": "0.001..1"}
    told = dict(search_setting(plan))
    assert (told["for all"], told["only fedadam"]) == ("training.lr=0.0001..0.01", "fedadam.lr=0.1..2")
    assert "only fedavg" not in told


def test_a_knob_of_one_strategy_wins_over_that_of_all_and_one_that_is_given_is_kept_and_said() -> None:
    plan = planned("fedadam", "fedyogi", "fedavgm:lr=1", keys=("strategy.lr=0.1..2", "fedyogi.lr=0.01..1"))
    assert spaces(plan, "fedadam")["fedadam.lr"] == "0.1..2"
    assert spaces(plan, "fedyogi")["fedyogi.lr"] == "0.01..1"
    assert "fedavgm.lr" not in spaces(plan, "fedavgm:lr=1")
    assert "fedavgm:lr=1 (fedavgm.lr)" in dict(search_setting(plan))["not searched"]


def test_where_nobody_says_what_the_sites_rate_is_searched_a_decade_to_each_side() -> None:
    plan = planned("fedavg", "median")
    assert spaces(plan, "fedavg") == spaces(plan, "median") == {"training.lr": "0.0001..0.01"}


def test_the_listed_strategies_are_searched_without_knobs_that_somebody_gave_them() -> None:
    plan = planned()
    assert [variant.name for variant in plan.variants] == list(default_strategies(Experiment(), searched=True))
    assert all(":" not in variant.name for variant in plan.variants)
    assert set(spaces(plan, "fedavgm")) == {"training.lr", "fedavgm.lr", "fedavgm.momentum"}


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_default_space_holds_what_its_strategy_takes_and_has_by_default(name: str) -> None:
    plain = make_strategy(StrategyChoice(name=name))
    for knob, text in DEFAULTS[name].items():
        space = parse_space(text)
        assert space.holds(getattr(plain, knob))
        for value in space.ends():
            make_strategy(StrategyChoice(name=name, knobs={knob: value}))


def test_a_whole_range_stays_whole_where_the_key_takes_whole_numbers_only_there() -> None:
    plan = planned("fedavg", "median", keys=("training.batch_size=8..64", "training.epochs=1..4"))
    assert plan.search is not None
    found = plan.search.spaces["fedavg"]
    assert [type(end) for end in found["training.batch_size"].ends()] == [int, int]
    assert [type(end) for end in found["training.epochs"].ends()] == [float, float]


def test_values_go_where_their_keys_say_and_own_values_are_read_from_there() -> None:
    before = planned("fedadam", "fedavg").variants[0].experiment
    after = with_values(before, {"training.lr": 0.02, "fedadam.lr": 0.3, "model.adapter.rank": 4})
    assert (after.training.lr, after.phases[0].strategy.knobs, after.model.adapter.rank) == (0.02, {"lr": 0.3}, 4)
    keys = ("training.lr", "fedadam.lr", "training.grad_clip")
    assert own_values(before, keys) == {"training.lr": 0.001, "fedadam.lr": 0.1, "training.grad_clip": None}
    assert own_values(after, keys[:2]) == {"training.lr": 0.02, "fedadam.lr": 0.3}


def test_no_comparison_can_have_the_seed_of_its_trials() -> None:
    first = 2**31 - 1001
    experiment = Experiment(federation=Federation(seed=first))
    plan = make_plan(experiment, strategies=("fedavg", "median"), sweeps=(), seeds=1000, search=Wanted(trials=1))
    assert plan.search is not None and plan.search.seed == first + 1000 == plan.seeds[-1] + 1
    beyond = replace(experiment, federation=Federation(seed=first + 1))
    with pytest.raises(ExperimentError, match="the seeds run out"):
        make_plan(beyond, strategies=("fedavg", "median"), sweeps=(), seeds=1, search=Wanted(trials=1))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(trials=0), "at least one trial"),
        (Wanted(trials=1, objective="loss"), "--objective is one of accuracy, worst-site"),
        (Wanted(trials=10_000), "too many runs"),
    ],
)
def test_a_search_without_trials_or_of_an_unknown_objective_is_refused(wanted: Wanted, said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        make_plan(Experiment(), strategies=("fedavg", "median"), sweeps=(), seeds=1, search=wanted)


SPACES: dict[str, Space] = {
    "rate": Range(low=1e-4, high=1e-2, log=True),
    "size": Range(low=2, high=64, log=True),
    "share": Range(low=0.0, high=1.0, log=False),
    "kind": Choices(values=("x", True, 3)),
}


def asked(seed: int, *, trials: int = 12) -> list[dict[str, Value]]:
    """The trials of a search in which a higher rate is better, and every fifth trial fails."""
    proposals = Proposals(SPACES, own={}, trials=trials, seed=seed)
    found = []
    for number in range(trials):
        values = proposals.ask()
        proposals.tell(None if number % 5 == 4 else float(values["rate"]))
        found.append(values)
    return found


def test_equal_arguments_give_equal_trials_and_another_seed_others() -> None:
    assert asked(7) == asked(7)
    assert asked(7) != asked(8)


def test_every_trial_lies_in_the_space_and_its_floats_can_be_typed() -> None:
    for values in asked(7):
        assert all(SPACES[key].holds(value) for key, value in values.items())
        assert float(f"{values['rate']:.4g}") == values["rate"] and type(values["size"]) is int


def test_later_trials_lie_where_earlier_ones_were_good() -> None:
    """Better is higher, over two decades: the second half of 40 trials has a higher median than the first, which is random."""
    rates = [float(values["rate"]) for values in asked(7, trials=40)]
    assert sorted(rates[20:])[10] > 1.5 * sorted(rates[:20])[10]


@pytest.mark.parametrize(("own", "first"), [(0.003, True), (0.5, False)])
def test_the_first_trial_has_the_own_values_if_the_space_has_them(own: float, first: bool) -> None:
    proposals = Proposals({"rate": SPACES["rate"]}, own={"rate": own}, trials=4, seed=7)
    assert (proposals.ask() == {"rate": own}) is first


def test_a_search_says_nothing_on_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    asked(7, trials=3)
    assert capfd.readouterr() == ("", "")


def test_default_spaces_are_of_strategies_that_there_are() -> None:
    assert DEFAULTS.keys() <= STRATEGIES.keys()
