"""Flower's strategies in our rounds, and our rules in a Flower ServerApp."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from flwr.supercore.task_identity import TaskIdentity
from safetensors.torch import load
from torch import Tensor

from fedrelease.errors import RoundFailed
from fedrelease.experiment import StrategyChoice
from fedrelease.server.flower_strategies import from_flower, to_flower
from fedrelease.strategies import make_strategy
from fedrelease.update import Update, state_bytes

PARENT = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor([[0.5]])}


def update(site: str, *, by: float, examples: int) -> Update:
    tensors = {name: torch.full_like(tensor, by) for name, tensor in PARENT.items()}
    return Update(site=site, tensors=tensors, examples=examples, metrics={}, receipt=None, digest="", size_bytes=0)


UPDATES = [update("a", by=1.0, examples=1), update("b", by=3.0, examples=3)]


def test_a_strategy_of_flowers_aggregates_as_flower_does_weighted_by_examples() -> None:
    """1 + (1 * 1 + 3 * 3) / 4 = 3.5."""
    state, memory = from_flower(flower.FedAvg(fraction_evaluate=0.0)).aggregate(PARENT, UPDATES, {})
    assert state["w"].tolist() == [3.5, 4.5] and state["b"].tolist() == [[3.0]]
    assert {name: value.tolist() for name, value in memory.items()} == {"round": 1.0}


def test_momentum_goes_on_from_the_memory_and_never_from_the_object() -> None:
    """Deltas of 2.5 twice, momentum 0.5: 2.5, then 0.5 * 2.5 + 2.5."""
    rule = from_flower(flower.FedAvgM(fraction_evaluate=0.0, server_learning_rate=1.0, server_momentum=0.5))
    first, memory = rule.aggregate(PARENT, UPDATES, {})
    again, _ = rule.aggregate(PARENT, UPDATES, {})
    assert torch.equal(first["w"], again["w"])
    second, _ = rule.aggregate(first, UPDATES, load(state_bytes(memory)))
    assert (second["w"] - first["w"]).tolist() == [3.75, 3.75]


def test_adaptive_moments_are_kept_by_name() -> None:
    rule = from_flower(flower.FedAdam(fraction_evaluate=0.0))
    _, memory = rule.aggregate(PARENT, UPDATES, {})
    assert sorted(memory) == ["m_t/b", "m_t/w", "round", "v_t/b", "v_t/w"]


def test_moments_of_a_state_with_a_single_number_in_it_are_kept_too() -> None:
    """numpy makes a number, and no array, of what it adds to a tensor without dimensions."""
    one = {"scale": torch.tensor(1.0)}
    updates = [replace(update, tensors={"scale": torch.tensor(2.0)}) for update in UPDATES]
    _, memory = from_flower(flower.FedAdagrad(fraction_evaluate=0.0)).aggregate(one, updates, {})
    assert {name: value.tolist() for name, value in memory.items()} == {
        "m_t/scale": 2.0,
        "v_t/scale": 4.0,
        "round": 1.0,
    }


def test_a_strategy_that_gives_no_state_is_a_failed_round() -> None:
    rule = from_flower(flower.Bulyan(fraction_evaluate=0.0, num_malicious_nodes=1))
    with pytest.raises(RoundFailed, match="Bulyan gave no state"):
        rule.aggregate(PARENT, UPDATES, {})


class Clients(Grid):
    """Four plain Flower clients in this process: each adds its number to all that it got, and says what it was asked."""

    def __init__(self) -> None:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
        self.asked: list[dict[str, object]] = []

    def set_run(self, run: object) -> None: ...

    @property
    def run(self) -> object: ...

    def create_message(self, *_: object, **__: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return [1, 2, 3, 14]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return list(self._answers(messages))

    def _answers(self, messages: Iterable[Message]) -> Iterator[Message]:
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = str(number)
            node = message.metadata.dst_node_id
            self.asked.append(dict(message.content.config_records["config"]))
            arrays = {
                name: Array(value.numpy() + node) for name, value in message.content.array_records["arrays"].items()
            }
            metrics = MetricRecord({"num-examples": 1, "loss": float(node)})
            answer = Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)
            answer.metadata.__dict__["_src_node_id"] = node
            yield answer


def test_a_rule_of_ours_works_in_a_flower_server_app_over_rounds() -> None:
    """(1 + 2 + 3 + 14) / 4 = 5 a round."""
    grid = Clients()
    strategy = to_flower(make_strategy(StrategyChoice(name="ffa-lora")), fraction_evaluate=0.0)
    result = strategy.start(grid, ArrayRecord({"w": Array(numpy.zeros(2, dtype="float32"))}), num_rounds=3)
    found: Tensor = result.arrays.to_torch_state_dict()["w"]
    assert found.tolist() == [15.0, 15.0]
    assert [asked["freeze"] for asked in grid.asked] == ["lora_A"] * 12
    assert [round(value["loss"]) for value in result.train_metrics_clientapp.values()] == [5, 5, 5]


def test_one_update_does_not_wait_for_a_second_node() -> None:
    state, _ = from_flower(flower.FedAvg(fraction_evaluate=0.0)).aggregate(PARENT, UPDATES[:1], {})
    assert state["w"].tolist() == [2.0, 3.0]
