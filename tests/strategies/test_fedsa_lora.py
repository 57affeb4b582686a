"""FedSA-LoRA: A and the head are averaged, B is nobody's business, and what it cannot work with is refused beforehand."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedrelease.client.directives import parse_directives
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Adapter, StrategyChoice
from fedrelease.server.flower_strategies import to_flower
from fedrelease.strategies import check_adapter, make_strategy
from fedrelease.strategies.fedsa_lora import FedSALoRA
from fedrelease.strategies.lora import residuals
from fedrelease.update import State, Update

CHOICE = StrategyChoice(name="fedsa-lora")
PARENT = {
    "q.lora_A": torch.tensor([[1.0, 2.0]]),
    "q.lora_B": torch.tensor([[-0.0], [0.5]]),
    "head.bias": torch.tensor([1.0]),
}


class Shared(Mapping[str, Tensor]):
    """An update's tensors, of which nobody may read a B."""

    def __init__(self, tensors: State) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        assert not name.endswith("lora_B")
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def update(site: str, a: tuple[float, float], bias: float, examples: int = 1) -> Update:
    sent = Shared({"q.lora_A": torch.tensor([a]), "q.lora_B": torch.ones(2, 1), "head.bias": torch.tensor([bias])})
    return Update(site=site, tensors=sent, examples=examples, metrics={}, receipt=None, digest="", size_bytes=0)


def sent_by(one: Update) -> dict[str, Tensor]:
    return {name: one.tensors[name] for name in ("q.lora_A", "head.bias")}


UPDATES = (update("a", (2.0, 0.0), 1.0), update("b", (4.0, 2.0), -4.0, examples=3))


@pytest.mark.parametrize(
    ("weighting", "a", "bias"),
    [
        ("uniform", [4.0, 3.0], -0.5),  # 1 + (2 + 4) / 2, 2 + (0 + 2) / 2; 1 + (1 - 4) / 2
        ("examples", [4.5, 3.5], -1.75),  # 1 + (2 + 3 * 4) / 4, 2 + (0 + 3 * 2) / 4; 1 + (1 - 3 * 4) / 4
    ],
)
def test_a_and_the_head_are_averaged_and_b_is_the_parents_to_the_sign_of_a_zero(
    weighting: str, a: list[float], bias: float
) -> None:
    state, memory = FedSALoRA(weighting=weighting).aggregate(PARENT, UPDATES, {})
    assert state["q.lora_A"].tolist() == [a] and state["head.bias"].tolist() == [bias]
    assert torch.equal(state["q.lora_B"].view(torch.int32), PARENT["q.lora_B"].view(torch.int32))
    assert memory == {}


def test_one_site_alone_gets_back_what_it_shared() -> None:
    state, _ = FedSALoRA().aggregate(PARENT, UPDATES[:1], {})
    assert (state["q.lora_A"].tolist(), state["head.bias"].tolist()) == ([[3.0, 2.0]], [2.0])


def test_nothing_is_lost_by_averaging_where_b_does_not_move() -> None:
    """As such updates are when they have been screened: without a move of B. The metric of what was lost is left out at 0."""
    screened = [replace(one, tensors={**sent_by(one), "q.lora_B": torch.zeros(2, 1)}) for one in UPDATES]
    state, _ = FedSALoRA().aggregate(PARENT, screened, {})
    assert residuals(PARENT, state, screened, (0.5, 0.5))["q"] == pytest.approx(0.0, abs=1e-7)


def test_sites_are_asked_to_keep_their_b_in_every_round_and_understand_it() -> None:
    strategy = make_strategy(CHOICE)
    assert [strategy.directives(number) for number in (1, 2, 9)] == [{"private": "lora_B"}] * 3
    assert parse_directives(strategy.directives(1)).private == "lora_B"


def test_adapters_without_factors_and_sites_of_several_ranks_are_refused_by_the_key() -> None:
    with pytest.raises(ExperimentError, match=r"does not work with this adapter.*model\.adapter\.kind"):
        check_adapter(CHOICE, Adapter(kind="full"))
    with pytest.raises(ExperimentError, match=r"same rank.*site_ranks"):
        check_adapter(CHOICE, Adapter(rank=8, site_ranks={"a": 4}))
    check_adapter(CHOICE, Adapter(rank=8))
    check_adapter(StrategyChoice(name="fedavg"), Adapter(kind="full"))


def test_plain_flower_clients_who_keep_nothing_are_not_led_by_it() -> None:
    with pytest.raises(ExperimentError, match="cannot lead plain Flower clients"):
        to_flower(make_strategy(CHOICE))


def test_an_unknown_weighting_is_refused() -> None:
    with pytest.raises(ExperimentError, match="weighting"):
        FedSALoRA(weighting="votes")
