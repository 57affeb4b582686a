"""An independent reference for every strategy: Flower's own class where it has one, else a slow obvious loop."""

from collections.abc import Mapping, Sequence

import torch
from conformance import Oracle
from flwr.serverapp import strategy as flower
from robust_oracles import ROBUST_ORACLES
from torch import Tensor

from fedrelease.server.flower_strategies import from_flower
from fedrelease.strategies import Strategy
from fedrelease.update import State, Update


def _flower(kind: type[flower.Strategy], **knobs: float) -> Strategy:
    return from_flower(kind(fraction_evaluate=0.0, **knobs))


def by_loops(_: Strategy, parent: State, updates: Sequence[Update], __: State, ___: int) -> tuple[State, State]:
    """One number at a time: the parent's plus the mean of the sites'."""
    found: dict[str, Tensor] = {}
    for name, tensor in parent.items():
        numbers = tensor.double().flatten().tolist()
        for place in range(len(numbers)):
            numbers[place] += sum(float(one.tensors[name].flatten()[place]) for one in updates) / len(updates)
        found[name] = torch.tensor(numbers, dtype=torch.float64).reshape(tensor.shape)
    return found, {}


ORACLES: Mapping[str, Oracle] = {
    "fedavg": by_loops,
    "ffa-lora": by_loops,
    **ROBUST_ORACLES,
}
