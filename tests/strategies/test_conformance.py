"""The conformance suite over the whole kit, and what it catches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import conformance
import pytest
import torch
from oracles import ORACLES

from fedrelease.errors import ExperimentError
from fedrelease.experiment import StrategyChoice
from fedrelease.strategies import STRATEGIES, Strategy, make_strategy
from fedrelease.update import State, Update

KNOBS: dict[str, dict[str, float | str]] = {"qfedavg": {"q": 1.0, "local_lr": 0.5}}
"""Of members that cannot do without, or that move too little for a test with their defaults."""

EVERY_MEMBER = pytest.mark.parametrize("name", sorted(STRATEGIES))


def rule_of(name: str) -> Strategy:
    return make_strategy(StrategyChoice(name=name, knobs=KNOBS.get(name, {})))


def test_every_member_has_an_oracle() -> None:
    assert sorted(ORACLES) == sorted(STRATEGIES)


@EVERY_MEMBER
def test_it_goes_where_its_oracle_goes(name: str) -> None:
    conformance.check_oracle(rule_of(name), ORACLES[name])


@EVERY_MEMBER
def test_the_order_of_arrival_changes_no_bit(name: str, tmp_path: Path) -> None:
    conformance.check_order(rule_of(name), tmp_path)


@EVERY_MEMBER
def test_equal_sites_give_their_own_state_where_it_is_promised(name: str) -> None:
    conformance.check_equal_stays_equal(rule_of(name))


@EVERY_MEMBER
def test_the_state_has_the_parents_form_and_nothing_else_changes(name: str) -> None:
    conformance.check_form(rule_of(name))


@EVERY_MEMBER
def test_hostile_updates_are_bounded_or_refused(name: str) -> None:
    conformance.check_hostile(rule_of(name))


@EVERY_MEMBER
def test_memory_that_was_saved_and_loaded_is_as_good_as_kept(name: str) -> None:
    conformance.check_memory(rule_of(name))


Rule = Callable[[State, Sequence[Update], State], tuple[State, State]]


@dataclass(frozen=True, kw_only=True)
class Broken(Strategy):
    """FedAvg, changed on purpose."""

    change: Rule

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        return self.change(parent, updates, memory)


def _mean(parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
    return make_strategy(StrategyChoice(name="fedavg")).aggregate(parent, updates, memory)


def _first_only(parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
    return _mean(parent, updates[:1], memory)


def _adds_up(parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
    return {name: tensor + sum(one.tensors[name] for one in updates) for name, tensor in parent.items()}, {}


def _in_place(parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
    for name, tensor in parent.items():
        tensor.copy_(_mean(parent, updates, memory)[0][name])
    return parent, {}


def _forgets_the_head(parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
    return {name: value for name, value in _mean(parent, updates, memory)[0].items() if "head" not in name}, {}


class _Counter:
    """Keeps something outside of the memory."""

    rounds = 0

    def __call__(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        self.rounds += 1
        state, _ = _mean(parent, updates, memory)
        return {name: value + 0.01 * (self.rounds - 1) for name, value in state.items()}, {}


@dataclass(frozen=True, kw_only=True)
class BrokenFactors(Strategy):
    """FedAvg of one site, which promises products only: its factors are multiplied by two numbers."""

    same_product: ClassVar[bool] = True

    first: float
    second: float

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        scales = {"lora_A": self.first, "lora_B": self.second}
        state, _ = _mean(parent, updates, memory)
        return {name: value * scales.get(name.rpartition(".")[2], 1.0) for name, value in state.items()}, {}


def test_a_rule_that_promises_products_may_change_factors_and_nothing_else() -> None:
    conformance.check_equal_stays_equal(BrokenFactors(first=2.0, second=0.5))
    with pytest.raises(AssertionError, match="product by"):
        conformance.check_equal_stays_equal(BrokenFactors(first=2.0, second=0.6))


@pytest.mark.parametrize(
    ("mutation", "check"),
    [
        (_first_only, lambda rule: conformance.check_oracle(rule, ORACLES["fedavg"])),
        (_adds_up, lambda rule: conformance.check_oracle(rule, ORACLES["fedavg"])),
        (_adds_up, conformance.check_equal_stays_equal),
        (_in_place, conformance.check_form),
        (_forgets_the_head, conformance.check_form),
        (_Counter(), conformance.check_memory),
    ],
)
def test_a_rule_that_is_broken_on_purpose_is_caught(mutation: Rule, check: Callable[[Strategy], None]) -> None:
    with pytest.raises(AssertionError):
        check(Broken(change=mutation))


def test_the_same_checks_pass_for_the_rule_that_was_broken() -> None:
    rule = Broken(change=_mean)
    conformance.check_oracle(rule, ORACLES["fedavg"])
    conformance.check_equal_stays_equal(rule)
    conformance.check_form(rule)
    conformance.check_memory(rule)
    assert torch.is_tensor(rule.aggregate(conformance.parent_of(), conformance.updates_of(rule, 1), {})[0]["scale"])


@EVERY_MEMBER
def test_a_knob_of_another_kind_is_refused_by_its_name(name: str) -> None:
    """Knobs come from a file: a text or a truth where a number is wanted, a number where a text is."""
    for knob in fields(rule_of(name)):  # type: ignore[arg-type]  # every member is a dataclass
        for strange in (3,) if isinstance(knob.default, str) else ("x", True, float("nan"), -1e9):
            with pytest.raises(ExperimentError) as refusal:
                make_strategy(StrategyChoice(name=name, knobs={**KNOBS.get(name, {}), knob.name: strange}))
            assert refusal.value.rule
