"""FedDPA: the shared pair and the head are averaged, the second pair is nobody's business; and what goes with it."""

import pytest
import torch
from torch import Tensor

from fedrelease.client.directives import parse_directives
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Adapter, StrategyChoice
from fedrelease.server.flower_strategies import to_flower
from fedrelease.strategies import STRATEGIES, check_adapter, make_strategy
from fedrelease.strategies.feddpa import FedDPA
from fedrelease.update import State, Update

CHOICE = StrategyChoice(name="feddpa")
PARENT = {
    "q.lora_A": torch.tensor([[1.0, 2.0]]),
    "q.lora_B": torch.tensor([[0.5], [0.0]]),
    "q.own_A": torch.tensor([[3.0, 4.0]]),
    "q.own_B": torch.tensor([[-0.0], [0.0]]),
    "head.bias": torch.tensor([1.0]),
}


class Shared(dict[str, Tensor]):
    """An update's tensors, of which nobody may read a second pair's."""

    def __getitem__(self, name: str) -> Tensor:
        assert ".own_" not in name
        return super().__getitem__(name)


def update(site: str, b: float, bias: float, examples: int = 1) -> Update:
    moves: State = {name: torch.zeros_like(tensor) for name, tensor in PARENT.items()}
    sent = Shared({**moves, "q.lora_B": torch.full((2, 1), b), "head.bias": torch.tensor([bias])})
    return Update(site=site, tensors=sent, examples=examples, metrics={}, receipt=None, digest="", size_bytes=0)


@pytest.mark.parametrize(
    ("weighting", "b", "bias"),
    [
        ("uniform", [[3.5], [3.0]], -0.5),  # 0.5 + (2 + 4) / 2, 0 + 3; 1 + (1 - 4) / 2
        ("examples", [[4.0], [3.5]], -1.75),  # 0.5 + (2 + 3 * 4) / 4, 0 + 3.5; 1 + (1 - 3 * 4) / 4
    ],
)
def test_what_is_shared_is_averaged_and_the_second_pair_is_the_parents_to_the_sign_of_a_zero(
    weighting: str, b: list[list[float]], bias: float
) -> None:
    updates = (update("a", 2.0, 1.0), update("b", 4.0, -4.0, examples=3))
    state, memory = FedDPA(weighting=weighting).aggregate(PARENT, updates, {})
    assert state["q.lora_B"].tolist() == b and state["head.bias"].tolist() == [bias]
    assert torch.equal(state["q.lora_A"], PARENT["q.lora_A"]) and memory == {}
    for name in ("q.own_A", "q.own_B"):
        assert torch.equal(state[name].view(torch.int32), PARENT[name].view(torch.int32))


def test_sites_are_asked_to_keep_their_second_pair_in_every_round_and_understand_it() -> None:
    strategy = make_strategy(CHOICE)
    assert [strategy.directives(number) for number in (1, 2, 9)] == [{"private": "second-adapter"}] * 3
    assert parse_directives(strategy.directives(1)).private == "second-adapter"


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        (Adapter(), r"no second pair.*own_rank = 0.*own_rank = 2"),
        (Adapter(kind="head"), r"does not work with this adapter.*kind"),
        (Adapter(kind="lora-sb"), r"does not work with this adapter.*kind"),
        (Adapter(own_rank=2, site_ranks={"a": 4}), r"same rank.*site_ranks"),
    ],
)
def test_what_it_cannot_work_with_is_refused_by_the_key(adapter: Adapter, said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        check_adapter(CHOICE, adapter)
    check_adapter(CHOICE, Adapter(own_rank=2, residual=True))


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"feddpa"}))
def test_no_other_strategy_is_given_a_second_pair(name: str) -> None:
    with pytest.raises(ExperimentError, match=r"own_rank = 2|does not work with this adapter"):
        check_adapter(StrategyChoice(name=name), Adapter(own_rank=2, residual=True))


@pytest.mark.parametrize("kind", ["full", "head", "lora-sb", "prompt"])
def test_only_lora_has_a_second_pair(kind: str) -> None:
    with pytest.raises(ExperimentError, match=f'own_rank.*left out with kind = "{kind}"'):
        Adapter(kind=kind, own_rank=1)


@pytest.mark.parametrize("rank", [-1, 1025])
def test_its_rank_has_bounds(rank: int) -> None:
    with pytest.raises(ExperimentError, match=r"own_rank.*between 0 and 1024"):
        Adapter(own_rank=rank)


def test_plain_flower_clients_who_keep_nothing_are_not_led_by_it() -> None:
    with pytest.raises(ExperimentError, match="cannot lead plain Flower clients"):
        to_flower(make_strategy(CHOICE))


def test_an_unknown_weighting_is_refused() -> None:
    with pytest.raises(ExperimentError, match="weighting"):
        FedDPA(weighting="votes")
