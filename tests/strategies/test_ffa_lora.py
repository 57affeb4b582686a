"""FFA-LoRA: A stays, B is averaged, and the average of products is the product of averages."""

import pytest
import torch
from torch import Tensor

from fedrelease.errors import ExperimentError
from fedrelease.experiment import StrategyChoice
from fedrelease.strategies import make_strategy
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.strategies.ffa_lora import FFALoRA
from fedrelease.update import Update


def drawn(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"q.lora_A": torch.randn(2, 6, generator=generator), "q.lora_B": torch.randn(5, 2, generator=generator)}


def update(seed: int, *, a: float) -> Update:
    tensors = {**drawn(seed), "q.lora_A": a * drawn(seed)["q.lora_A"]}
    return Update(site=str(seed), tensors=tensors, examples=seed, metrics={}, receipt=None, digest="", size_bytes=0)


def error_of_averaging(strategy: FedAvg | FFALoRA, *, a: float) -> float:
    """Of the aggregated factors' product, against the mean of the sites' products."""
    parent, updates = drawn(0), [update(seed, a=a) for seed in (1, 2, 3)]
    state, _ = strategy.aggregate(parent, updates, {})
    products = [
        (parent["q.lora_B"] + one.tensors["q.lora_B"]) @ (parent["q.lora_A"] + one.tensors["q.lora_A"])
        for one in updates
    ]
    return float((state["q.lora_B"] @ state["q.lora_A"] - torch.stack(products).mean(0)).abs().max())


def test_averaging_is_exact_where_a_stays_and_is_not_where_it_moves() -> None:
    assert error_of_averaging(FFALoRA(), a=0.0) < 1e-6
    assert error_of_averaging(FedAvg(), a=1.0) > 0.1


def test_clients_are_asked_to_leave_a_in_every_round() -> None:
    strategy = make_strategy(StrategyChoice(name="ffa-lora", knobs={}))
    assert [strategy.directives(number) for number in (1, 2, 9)] == [{"freeze": "lora_A"}] * 3


def test_a_is_bit_for_bit_the_parents() -> None:
    state, memory = FFALoRA().aggregate(drawn(0), [update(seed, a=0.0) for seed in (1, 2, 3)], {})
    assert torch.equal(state["q.lora_A"], drawn(0)["q.lora_A"])
    assert memory == {}


def test_weighting_is_fedavgs() -> None:
    updates = [update(seed, a=0.0) for seed in (1, 2)]
    expected, _ = FedAvg(weighting="examples").aggregate(drawn(0), updates, {})
    found, _ = FFALoRA(weighting="examples").aggregate(drawn(0), updates, {})
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(ExperimentError, match="weighting"):
        FFALoRA(weighting="votes")
