"""Federated averaging against hand numbers and the plain loops."""

import gc
import weakref
from collections.abc import Iterator, Mapping

import pytest
import torch
from reference import federated_mean
from torch import Tensor

from fedrelease.errors import ExperimentError, RoundFailed
from fedrelease.experiment import StrategyChoice
from fedrelease.strategies import STRATEGIES, make_strategy
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.update import State, Update


def update(site: str, tensors: State, examples: int | None = None) -> Update:
    return Update(site=site, tensors=tensors, examples=examples, metrics={}, receipt=None, digest="", size_bytes=0)


def numbers(*values: float) -> dict[str, Tensor]:
    return {"w": torch.tensor(values, dtype=torch.float32)}


def drawn(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(3, 4, generator=generator) for name in ("a", "b")}


def test_uniform_weighting_gives_every_site_one_vote() -> None:
    """[10, 20] + ([1, 2] + [4, 6]) / 2, whatever the sites' numbers of rows."""
    updates = [update("a", numbers(1, 2), 1), update("b", numbers(4, 6), 99)]
    state, memory = FedAvg().aggregate(numbers(10, 20), updates, {})
    assert state["w"].tolist() == [12.5, 24.0]
    assert memory == {}


def test_weighting_by_examples_gives_every_row_one_vote() -> None:
    """[10, 20] + (3 * [1, 2] + 1 * [5, 6]) / 4."""
    updates = [update("a", numbers(1, 2), 3), update("b", numbers(5, 6), 1)]
    state, _ = FedAvg(weighting="examples").aggregate(numbers(10, 20), updates, {})
    assert state["w"].tolist() == [12.0, 23.0]


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_the_mean_equals_the_plain_loops(weighting: str) -> None:
    counts = (7, 1, 12, 30)
    parent, deltas = drawn(0), [drawn(seed) for seed in range(1, 5)]
    updates = [update(str(n), delta, count) for n, (delta, count) in enumerate(zip(deltas, counts, strict=True))]
    state, _ = FedAvg(weighting=weighting).aggregate(parent, updates, {})
    expected = federated_mean(parent, deltas, counts if weighting == "examples" else (1, 1, 1, 1))
    for name, value in state.items():
        assert (value.shape, value.dtype) == (parent[name].shape, torch.float32)
        assert value.flatten().tolist() == pytest.approx(expected[name], abs=1e-6)


def test_one_site_alone_gives_its_own_state() -> None:
    parent, trained = numbers(0.5, -0.25), numbers(0.75, 4.0)
    alone = [update("a", {"w": trained["w"] - parent["w"]}, 5)]
    for weighting in ("uniform", "examples"):
        assert FedAvg(weighting=weighting).aggregate(parent, alone, {})[0]["w"].tolist() == [0.75, 4.0]


def test_updates_are_added_in_the_order_in_which_they_are_handed_in() -> None:
    """In float64 (1e17 + 0.25) - 1e17 is 0, and (1e17 - 1e17) + 0.25 is 0.25: the order shows."""
    zero = torch.zeros(1, dtype=torch.float64)
    big, small, back, none = (update(str(v), {"w": zero + v}) for v in (4e17, 1.0, -4e17, 0.0))
    assert FedAvg().aggregate({"w": zero}, [big, small, back, none], {})[0]["w"].tolist() == [0.0]
    assert FedAvg().aggregate({"w": zero}, [big, back, small, none], {})[0]["w"].tolist() == [0.25]


def test_the_parent_and_the_updates_are_left_as_they_were() -> None:
    parent, delta = numbers(1, 2), numbers(3, 4)
    FedAvg().aggregate(parent, [update("a", delta)], {})
    assert (parent["w"].tolist(), delta["w"].tolist()) == ([1, 2], [3, 4])


class Counted(Mapping[str, Tensor]):
    """Makes a tensor when it is asked for one, and knows how many of all of them are alive."""

    alive = 0
    most = 0

    def __getitem__(self, name: str) -> Tensor:
        tensor = torch.ones(4)
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)
        weakref.finalize(tensor, self._gone)
        return tensor

    @staticmethod
    def _gone() -> None:
        Counted.alive -= 1

    def __iter__(self) -> Iterator[str]:
        return iter(("a", "b"))

    def __len__(self) -> int:
        return 2


def test_one_tensor_of_one_site_is_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "alive", 0)
    monkeypatch.setattr(Counted, "most", 0)
    parent = {"a": torch.zeros(4), "b": torch.zeros(4)}
    gc.disable()
    try:
        state, _ = FedAvg().aggregate(parent, [update(str(site), Counted()) for site in range(50)], {})
    finally:
        gc.enable()
    assert state["a"].tolist() == pytest.approx([1.0] * 4)
    assert (Counted.most, Counted.alive) == (1, 0)


def test_nobody_is_refused_and_not_counted_as_no_change() -> None:
    with pytest.raises(RoundFailed, match="0 sites answered"):
        FedAvg().aggregate(numbers(1), [], {})


def test_sites_without_any_example_are_refused_and_not_counted_as_no_change() -> None:
    with pytest.raises(RoundFailed, match="2 sites answered with 0 examples"):
        FedAvg(weighting="examples").aggregate(numbers(1), [update("a", numbers(1), 0), update("b", numbers(1), 0)], {})


def test_a_site_that_keeps_its_count_private_cannot_be_weighted_by_it() -> None:
    with pytest.raises(RoundFailed, match=r"b keeps its number of examples private.*uniform"):
        FedAvg(weighting="examples").aggregate(numbers(1), [update("a", numbers(1), 3), update("b", numbers(1))], {})


def test_clients_are_asked_for_nothing_special() -> None:
    assert FedAvg().directives(1) == {}


def test_a_strategy_is_chosen_by_its_name_and_knobs() -> None:
    assert make_strategy(StrategyChoice()) == FedAvg(weighting="uniform")
    assert make_strategy(StrategyChoice(knobs={"weighting": "examples"})) == FedAvg(weighting="examples")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (StrategyChoice(name="fedavgg"), "unknown strategy.*did you mean fedavg"),
        (StrategyChoice(name="zzz"), f"one of {', '.join(sorted(STRATEGIES))}"),
        (StrategyChoice(knobs={"weight": 1}), "no knob called weight.*weighting"),
        (StrategyChoice(knobs={"weighting": "votes"}), "examples or uniform"),
    ],
)
def test_a_strategy_or_knob_that_does_not_exist_is_refused(choice: StrategyChoice, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        make_strategy(choice)
