"""An independent reference for every strategy: Flower's own class where it has one, else a slow obvious loop."""

from collections.abc import Mapping, Sequence

import torch
from conformance import Oracle
from flwr.serverapp import strategy as flower
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


def by_dense_products(
    rule: Strategy, parent: State, updates: Sequence[Update], memory: State, number: int
) -> tuple[State, State]:
    """The head by loops; each layer's mean of dense products, cut by torch's SVD: values in B, A's largest entries positive."""
    found = dict(by_loops(rule, parent, updates, memory, number)[0])
    for first in [name for name in parent if name.endswith(".lora_A")]:
        second = first[:-1] + "B"
        whole = sum(
            (parent[second].double() + one.tensors[second]) @ (parent[first].double() + one.tensors[first])
            for one in updates
        ) / len(updates)
        u, values, v = torch.linalg.svd(torch.as_tensor(whole))
        for rank in range(len(parent[first])):
            sign = 1.0 if v[rank][v[rank].abs().argmax()] > 0 else -1.0
            found[first][rank], found[second][:, rank] = sign * v[rank], sign * values[rank] * u[:, rank]
    return found, {}


ORACLES: Mapping[str, Oracle] = {
    "fedavg": by_loops,
    "fedit": by_loops,
    "ffa-lora": by_loops,
    "flexlora": by_dense_products,
    "flora": by_dense_products,
    "hlora": by_dense_products,
}
