"""Rules from model merging, by hand."""

import conformance
import pytest
import torch
from test_fedavg import numbers

from fedrelease.strategies.fedavg import FedAvg
from fedrelease.strategies.merging import Dare, TaskArithmetic, Ties, trimmed
from fedrelease.update import State, Update


def update(site: str, tensors: State, examples: int = 1) -> Update:
    return Update(site=site, tensors=tensors, examples=examples, metrics={}, receipt=None, digest="", size_bytes=0)


def test_task_arithmetic_adds_deltas_up() -> None:
    """1 + 0.5 * (2 + 4)."""
    updates = [update("a", numbers(2)), update("b", numbers(4))]
    assert TaskArithmetic(scaling=0.5).aggregate(numbers(1), updates, {})[0]["w"].tolist() == [4.0]


def test_ties_trims_elects_signs_and_averages_what_agrees() -> None:
    """Half of the numbers stay: [4, -3, 0, 0] and [2, 5, 0, 0]. Both sums are above 0, so that -3 is left out: [3, 5, 0, 0]."""
    updates = [update("a", numbers(4, -3, 1, 0)), update("b", numbers(2, 5, -1, 0.5))]
    assert Ties(density=0.5).aggregate(numbers(0, 0, 0, 0), updates, {})[0]["w"].tolist() == [3.0, 5.0, 0.0, 0.0]
    assert Ties(density=0.5, scaling=2.0).aggregate(numbers(1, 1, 1, 1), updates, {})[0]["w"].tolist() == [7, 11, 1, 1]


def test_ties_moves_nothing_where_signs_hold_the_balance() -> None:
    updates = [update("a", numbers(3, 1)), update("b", numbers(-3, 1))]
    assert Ties(density=1.0).aggregate(numbers(5, 5), updates, {})[0]["w"].tolist() == [5.0, 6.0]


def test_trimming_keeps_the_largest_magnitudes_and_one_number_at_least() -> None:
    delta = torch.tensor([0.1, -4.0, 3.0, -0.2])
    assert trimmed(delta, 0.5).tolist() == [0.0, -4.0, 3.0, 0.0]
    assert trimmed(delta, 0.01).tolist() == [0.0, -4.0, 0.0, 0.0]
    assert torch.equal(trimmed(delta, 1.0), delta.double())
    assert trimmed(torch.tensor(-2.0), 0.1).item() == -2.0


def test_numbers_as_large_as_the_last_one_that_is_kept_are_kept_wherever_they_lie() -> None:
    assert trimmed(torch.tensor([1.0, -1.0, 0.5, 1.0]), 0.25).tolist() == [1.0, -1.0, 0.0, 1.0]


def test_dare_drops_or_rescales_and_nothing_else() -> None:
    """With drop 0.75 every number of a delta of ones is 0 or 4; about a quarter are 4."""
    delta = {"w": torch.ones(10_000)}
    found = Dare(drop=0.75).aggregate({"w": torch.zeros(10_000)}, [update("a", delta)], {})[0]["w"]
    assert set(found.tolist()) == {0.0, 4.0}
    assert 0.23 < float((found == 4).float().mean()) < 0.27


def test_dare_that_drops_nothing_is_fedavg() -> None:
    updates = conformance.updates_of(FedAvg(), 1)
    for weighting in ("uniform", "examples"):
        found, _ = Dare(drop=0.0, weighting=weighting).aggregate(conformance.parent_of(), updates, {})
        expected, _ = FedAvg(weighting=weighting).aggregate(conformance.parent_of(), updates, {})
        assert conformance.close(found, expected, 1e-7)


def test_dare_drops_others_for_another_seed_site_tensor_and_round_and_the_same_ones_again() -> None:
    zero, ones = torch.zeros(100), torch.ones(100)

    def kept(seed: int = 0, site: str = "a", name: str = "w", rounds: int = 1) -> tuple[float, ...]:
        memory: State = {}
        for _ in range(rounds):
            state, memory = Dare(drop=0.5, seed=seed).aggregate({name: zero}, [update(site, {name: ones})], memory)
        return tuple(state[name].tolist())

    assert kept() == kept()
    assert len({kept(), kept(seed=1), kept(site="b"), kept(name="v"), kept(rounds=2)}) == 5


def test_the_rounds_are_counted_in_the_memory() -> None:
    memory: State = {}
    for number in (1, 2, 3):
        _, memory = Dare().aggregate(numbers(1), [update("a", numbers(1))], memory)
        assert {name: value.tolist() for name, value in memory.items()} == {"dare/round": number}


def test_ties_gives_every_site_one_vote_whatever_its_examples() -> None:
    few = [update("a", numbers(1), 1), update("b", numbers(3), 1)]
    many = [update("a", numbers(1), 1), update("b", numbers(3), 999)]
    assert Ties().aggregate(numbers(0), few, {})[0]["w"].tolist() == [2.0]
    assert Ties().aggregate(numbers(0), many, {})[0]["w"].tolist() == pytest.approx([2.0])
