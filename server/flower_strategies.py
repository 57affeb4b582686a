"""Strategies across the border: Flower's in our rounds, ours in somebody's own Flower ServerApp.

Example::

    rule = from_flower(flwr.serverapp.strategy.FedAdam(eta=0.01))     # a Strategy of ours
    state, memory = rule.aggregate(parent, updates, memory)

    strategy = to_flower(make_strategy(StrategyChoice(name="median")))          # a Strategy of Flower's
    strategy.start(grid, initial_arrays, num_rounds=3)
"""

import copy
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.typing import NDArray
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from fedrelease.errors import ExperimentError, RoundFailed
from fedrelease.server.arrays import tensors_of
from fedrelease.strategies.contract import Strategy
from fedrelease.update import State, Update

__all__ = ["FlowerRule", "from_flower", "to_flower"]

ROUND = "round"
LEAST = ("min_available_nodes", "min_train_nodes")
"""A strategy of Flower's waits for so many nodes, for ever, before it asks any; who answered is our business."""
PARENT = "current_arrays"
"""What Flower's strategies call the state that the round began with."""


def from_flower(strategy: FlowerStrategy) -> Strategy:
    """A rule that lets ``strategy`` aggregate. The object itself is never changed: what it learns goes into the memory."""
    return FlowerRule(flower=strategy)


@dataclass(frozen=True, kw_only=True)
class FlowerRule(Strategy):
    """Any ``flwr.serverapp.strategy.Strategy``, run on a copy in each round.

    What the copy holds afterwards in attributes made of arrays (momentum, second moments) is the memory, by
    ``<attribute>/<key>``; a number of the kind ``round`` counts the rounds.
    """

    flower: FlowerStrategy

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Ask a copy of Flower's strategy, as its own loop would.

        Raises:
            RoundFailed: it gives no state, or one of another form.
        """
        flower, number = copy.deepcopy(self.flower), int(memory.get(ROUND, torch.zeros(()))) + 1
        _remember(flower, memory)
        _identify()
        grid = _Nodes(max(len(updates), *(int(vars(flower).get(least, 0)) for least in LEAST)))
        draws = random.getstate()  # Flower draws nodes from Python's global numbers
        try:
            flower.configure_train(number, ArrayRecord(dict(parent)), ConfigRecord(), grid)
        finally:
            random.setstate(draws)
        found, _ = flower.aggregate_train(
            number, [_reply(parent, update, place) for place, update in enumerate(updates)]
        )
        state = _state_like(parent, found, type(flower).__name__)
        return state, {**_memory_of(flower), ROUND: torch.tensor(float(number))}


class _Nodes(Grid):
    """So many nodes, and nothing else: for strategies that draw nodes before they aggregate."""

    def __init__(self, count: int) -> None:
        self._count = count

    def get_node_ids(self) -> Iterable[int]:
        return range(1, self._count + 1)

    def _refuse(self) -> Any:
        raise RoundFailed(
            "a strategy of Flower's wants to send messages by itself", hint="use to_flower, in a ServerApp"
        )

    def set_run(self, run: Any) -> None:
        self._refuse()

    @property
    def run(self) -> Any:
        return self._refuse()

    def create_message(self, *_: Any, **__: Any) -> Any:
        return self._refuse()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._refuse()  # type: ignore[no-any-return]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._refuse()  # type: ignore[no-any-return]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self._refuse()  # type: ignore[no-any-return]


def _reply(parent: State, update: Update, place: int) -> Message:
    """What a plain Flower ClientApp would have answered."""
    trained = {name: (tensor + update.tensors[name]).numpy() for name, tensor in parent.items()}
    metrics: dict[str, int | float | list[int] | list[float]] = {**update.metrics, "num-examples": update.examples or 1}
    content = RecordDict(
        {"arrays": ArrayRecord({k: Array(v) for k, v in trained.items()}), "metrics": MetricRecord(metrics)}
    )
    return Message(content, dst_node_id=place + 1, message_type="train")


def _identify() -> None:
    """Flower's messages ask who sends them; outside of a run nobody has said so."""
    try:
        _ = TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id
    except RuntimeError:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1


def _state_like(parent: State, found: ArrayRecord | None, name: str) -> dict[str, Tensor]:
    if found is None:
        hint = "ask more sites (phase.sites_per_round); Flower's log says how many it needs"
        raise RoundFailed(f"Flower's {name} gave no state", value=name, hint=hint)
    tensors = tensors_of(found)
    if {key: value.shape for key, value in tensors.items()} != {key: value.shape for key, value in parent.items()}:
        raise RoundFailed(f"Flower's {name} gave a state of another form", value=sorted(tensors)[:5])
    return {key: tensors[key].to(value.dtype) for key, value in parent.items()}


def _memory_of(flower: FlowerStrategy) -> dict[str, Tensor]:
    """All its attributes that are arrays, but the state that it was sent."""
    kept = {name: _arrays_in(value) for name, value in vars(flower).items() if name != PARENT}
    return {
        f"{name}/{key}": torch.from_numpy(array.copy())
        for name, arrays in kept.items()
        for key, array in arrays.items()
    }


def _arrays_in(value: object) -> Mapping[str, NDArray]:
    if isinstance(value, ArrayRecord):
        return {str(key): array.numpy() for key, array in value.items()}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    found = {str(key): array for key, array in items}
    arrays = all(isinstance(array, numpy.ndarray | numpy.generic) for array in found.values())
    return {key: numpy.asarray(array) for key, array in found.items()} if arrays else {}  # 0-d sums are numpy's numbers


def _remember(flower: FlowerStrategy, memory: State) -> None:
    """Put the memory back where it came from. A list's places were written as numbers."""
    if PARENT in vars(flower):
        setattr(flower, PARENT, None)
    for name in {key.split("/", 1)[0] for key in memory if "/" in key}:
        found = {
            key.split("/", 1)[1]: tensor.numpy().copy() for key, tensor in memory.items() if key.startswith(f"{name}/")
        }
        listed = all(key.isdecimal() for key in found)
        setattr(flower, name, [found[key] for key in sorted(found, key=int)] if listed else found)


def to_flower(rule: Strategy, **fedavg: Any) -> FlowerStrategy:
    """A Flower strategy that samples as Flower's ``FedAvg`` does (``fedavg``: its arguments) and aggregates by ``rule``.

    Clients answer with their whole state in one ArrayRecord, and with ``num-examples`` in one MetricRecord. The rule's
    directives are in their ConfigRecord; a client that does not follow them trains as if there were none.

    Raises:
        ExperimentError: the rule rests on what clients keep between rounds, and plain ones keep nothing.
    """
    if {"private", "variate"} & rule.directives(1).keys():
        raise ExperimentError(
            "this rule cannot lead plain Flower clients",
            value=type(rule).__name__,
            rule="its clients keep tensors of their own between rounds: a control variate, or a private part of the model",
            hint="run it in rounds of fedrelease, or choose another rule",
        )
    return _Ruled(rule, **fedavg)


class _Ruled(FlowerFedAvg):
    """Flower's sampling, our rule."""

    def __init__(self, rule: Strategy, **fedavg: Any) -> None:
        super().__init__(**fedavg)
        self.rule = rule
        self.memory: State = {}
        self._parent: State = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._parent = tensors_of(arrays)
        config.update(self.rule.directives(server_round))
        messages: Iterable[Message] = super().configure_train(server_round, arrays, config, grid)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        updates = sorted((self._update(message) for message in valid), key=lambda update: update.site)
        state, self.memory = self.rule.aggregate(self._parent, updates, self.memory)
        contents = [message.content for message in valid]
        return ArrayRecord(dict(state)), self.train_metrics_aggr_fn(contents, self.weighted_by_key)

    def _update(self, message: Message) -> Update:
        """Node ids, padded so that they sort as numbers do, take the place of sites' names."""
        trained = tensors_of(next(iter(message.content.array_records.values())))
        told = next(iter(message.content.metric_records.values()))
        numbers = {name: float(value) for name, value in told.items() if isinstance(value, int | float)}
        delta = {name: trained[name] - tensor for name, tensor in self._parent.items()}
        return Update(
            site=f"{message.metadata.src_node_id:020d}",
            tensors=delta,
            examples=int(numbers[self.weighted_by_key]),
            metrics=numbers,
            receipt=None,
            digest="",
            size_bytes=sum(tensor.nbytes for tensor in delta.values()),
        )
