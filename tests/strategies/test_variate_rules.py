"""SCAFFOLD, FedDyn and RoLoRA where the conformance suite does not look: partial participation, knobs, what clients are asked."""

import pytest
import torch
from torch import Tensor

from fedrelease.client.directives import parse_directives
from fedrelease.errors import ExperimentError, RoundFailed
from fedrelease.experiment import StrategyChoice
from fedrelease.server.flower_strategies import to_flower
from fedrelease.strategies import make_strategy
from fedrelease.strategies.feddyn import FedDyn
from fedrelease.strategies.rolora import RoLoRA
from fedrelease.strategies.scaffold import Scaffold
from fedrelease.update import State, Update

PARENT = {"w": torch.tensor([1.0])}


def update(site: str, delta: float, **beside: float) -> Update:
    tensors: State = {"w": torch.tensor([delta]), **{f"{k}/w": torch.tensor([v]) for k, v in beside.items()}}
    return Update(site=site, tensors=tensors, examples=1, metrics={}, receipt=None, digest="", size_bytes=0)


def numbers(state: State) -> dict[str, float]:
    return {name: round(float(tensor[0]), 6) for name, tensor in state.items()}


def test_of_eight_sites_two_change_scaffolds_variate_by_a_quarter_of_their_mean() -> None:
    """x: 1 + 0.5 * (2 + 4) / 2 = 2.5; c: 10 + (3 + 5) / 8 = 11."""
    updates = [update("a", 2.0, variate=3.0), update("b", 4.0, variate=5.0)]
    memory = {"variate/w": torch.tensor([10.0])}
    state, kept = Scaffold(lr=0.5).among(8).aggregate(PARENT, updates, memory)
    assert (numbers(state), numbers(kept)) == ({"w": 2.5}, {"variate/w": 11.0})


def test_of_eight_sites_two_change_feddyns_term_by_a_quarter_of_their_mean() -> None:
    """h: 0.3 - 0.5 (2 + 4) / 8 = -0.075; w: 1 + 3 + 0.075 / 0.5 = 4.15."""
    memory = {"h/w": torch.tensor([0.3], dtype=torch.float64)}
    state, kept = FedDyn(alpha=0.5).among(8).aggregate(PARENT, [update("a", 2.0), update("b", 4.0)], memory)
    assert (numbers(state), numbers(kept)) == ({"w": 4.15}, {"h/w": -0.075})


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_the_experiment_may_say_how_many_sites_there_are(name: str) -> None:
    said = make_strategy(StrategyChoice(name=name, knobs={"population": 3}))
    assert said.among(8) == said
    four = [update(site, 1.0, variate=0.0) for site in "abcd"]
    with pytest.raises(RoundFailed, match=r"4 sites answered.*3.*population"):
        said.aggregate(PARENT, four, {})
    assert said.aggregate(PARENT, four[:3], {})


@pytest.mark.parametrize(
    ("name", "knob", "value"),
    [
        ("scaffold", "lr", 0.0),
        ("scaffold", "population", 0),
        ("scaffold", "population", 2.0),
        ("feddyn", "alpha", -1.0),
        ("feddyn", "population", True),
        ("rolora", "weighting", "size"),
    ],
)
def test_a_knob_out_of_bounds_is_refused_by_name(name: str, knob: str, value: float | str) -> None:
    with pytest.raises(ExperimentError, match=knob) as caught:
        make_strategy(StrategyChoice(name=name, knobs={knob: value}))
    assert caught.value.value == value and caught.value.rule


def test_sites_are_sent_the_servers_variate_and_zeros_at_first() -> None:
    memory: dict[str, Tensor] = {"variate/w": torch.tensor([3.0])}
    assert numbers(Scaffold().broadcast(PARENT, {})) == {"variate/w": 0.0}
    assert numbers(Scaffold().broadcast(PARENT, memory)) == {"variate/w": 3.0}
    assert FedDyn().broadcast(PARENT, {}) == {}


def test_odd_rounds_of_rolora_train_b_and_even_ones_a() -> None:
    frozen = [RoLoRA().directives(number)["freeze"] for number in range(1, 5)]
    assert frozen == ["lora_A", "lora_B", "lora_A", "lora_B"]


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_plain_flower_clients_who_keep_no_variates_are_not_led_by_such_a_rule(name: str) -> None:
    with pytest.raises(ExperimentError, match="cannot lead plain Flower clients"):
        to_flower(make_strategy(StrategyChoice(name=name)))
    assert to_flower(RoLoRA())


@pytest.mark.parametrize("name", ["scaffold", "feddyn", "rolora"])
def test_a_site_knows_what_the_rule_asks_for(name: str) -> None:
    strategy = make_strategy(StrategyChoice(name=name))
    asked = strategy.directives(2)
    known = parse_directives(asked)
    assert {key: getattr(known, key) for key in asked} == asked
