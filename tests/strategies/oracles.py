"""An independent reference for every strategy: Flower's own class where it has one, else a slow obvious loop."""

from collections.abc import Mapping, Sequence

import torch
from conformance import Oracle
from oracles_servers import SERVER_ORACLES
from robust_oracles import ROBUST_ORACLES
from torch import Tensor

from fedrelease.strategies import Strategy
from fedrelease.update import State, Update


def by_loops(_: Strategy, parent: State, updates: Sequence[Update], __: State, ___: int) -> tuple[State, State]:
    """One number at a time: the parent's plus the mean of the sites'."""
    found: dict[str, Tensor] = {}
    for name, tensor in parent.items():
        numbers = tensor.double().flatten().tolist()
        for place in range(len(numbers)):
            numbers[place] += sum(float(one.tensors[name].flatten()[place]) for one in updates) / len(updates)
        found[name] = torch.tensor(numbers, dtype=torch.float64).reshape(tensor.shape)
    return found, {}


def _numbers(state: State, name: str) -> list[float]:
    """A tensor as a flat list; zeros stand for what is not there."""
    return [float(number) for number in state[name].double().flatten()] if name in state else []


def _shaped(numbers: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64).reshape(like.shape)


def scaffold(_: Strategy, parent: State, updates: Sequence[Update], memory: State, __: int) -> tuple[State, State]:
    """Karimireddy et al. (2020), algorithm 1, lines 16 and 17, with everybody taking part and a global step of 1."""
    state, variates = {}, {}
    for name, tensor in parent.items():
        x = _numbers(parent, name)
        c = _numbers(memory, f"c of {name}") or [0.0] * len(x)
        for update in updates:
            delta, change = _numbers(update.tensors, name), _numbers(update.tensors, f"variate/{name}")
            for place in range(len(x)):
                x[place] += delta[place] / len(updates)
                c[place] += change[place] / len(updates)
        state[name], variates[f"c of {name}"] = _shaped(x, tensor), _shaped(c, tensor)
    return state, variates


def feddyn(_: Strategy, parent: State, updates: Sequence[Update], memory: State, __: int) -> tuple[State, State]:
    """Acar et al. (2021), algorithm 1, with everybody taking part and the default alpha."""
    state, terms, alpha = {}, {}, 0.1
    for name, tensor in parent.items():
        before, found = _numbers(parent, name), list[float]()
        h = _numbers(memory, f"h of {name}") or [0.0] * len(before)
        deltas = [_numbers(update.tensors, name) for update in updates]
        for place, number in enumerate(before):
            trained = [number + delta[place] for delta in deltas]
            h[place] -= alpha * sum(end - number for end in trained) / len(updates)
            found.append(sum(trained) / len(trained) - h[place] / alpha)
        state[name], terms[f"h of {name}"] = _shaped(found, tensor), _shaped(h, tensor)
    return state, terms


def fedbuff(_: Strategy, parent: State, updates: Sequence[Update], __: State, ___: int) -> tuple[State, State]:
    """Nguyen et al.: the mean of deltas, each divided by the root of one plus its staleness."""
    found = {}
    for name, tensor in parent.items():
        steps = [one.tensors[name].double() / (1 + one.metrics["staleness"]) ** 0.5 for one in updates]
        found[name] = (tensor.double() + sum(steps) / len(updates)).float()
    return found, {}


def fedasync(_: Strategy, parent: State, updates: Sequence[Update], __: State, ___: int) -> tuple[State, State]:
    """Xie et al., line by line: one site after the other, x = (1 - alpha) x + alpha x_new."""
    found = {}
    for name, tensor in parent.items():
        now = tensor.double()
        for one in updates:
            alpha = 0.6 * (1 + one.metrics["staleness"]) ** -0.5
            now = (1 - alpha) * now + alpha * (tensor.double() + one.tensors[name].double())
        found[name] = now.float()
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


def fedsa(_: Strategy, parent: State, updates: Sequence[Update], __: State, ___: int) -> tuple[State, State]:
    """Guo et al. (2024): what is no B is averaged, number by number; B is nobody's business, whatever came of it."""
    return _but(parent, updates, ".lora_B")


def feddpa(_: Strategy, parent: State, updates: Sequence[Update], __: State, ___: int) -> tuple[State, State]:
    """Yang et al. (2024): the local adapter is nobody's business, and the global one is averaged, as the head is."""
    return _but(parent, updates, ".own_A", ".own_B")


def fedper(_: Strategy, parent: State, updates: Sequence[Update], __: State, ___: int) -> tuple[State, State]:
    """Arivazhagan et al. (2019): the head is nobody's business, and all else is averaged."""
    return _but(parent, updates, "head.bias", "head.weight")


def _but(parent: State, updates: Sequence[Update], *kept: str) -> tuple[State, State]:
    found: dict[str, Tensor] = {}
    for name, tensor in parent.items():
        numbers = _numbers(parent, name)
        if not name.endswith(kept):
            moves = [_numbers(one.tensors, name) for one in updates]
            numbers = [number + sum(each) / len(updates) for number, *each in zip(numbers, *moves, strict=True)]
        found[name] = _shaped(numbers, tensor)
    return found, {}


def fedex_lora(
    rule: Strategy, parent: State, updates: Sequence[Update], memory: State, number: int
) -> tuple[State, State]:
    """A, B and head by loops; the residual entry by entry, with every product of rows and columns written out."""
    rest = {name: tensor for name, tensor in parent.items() if not name.endswith(".residual")}
    found = dict(by_loops(rule, rest, updates, memory, number)[0])
    for name in [name for name in parent if name.endswith(".residual")]:
        first, second = name.replace("residual", "lora_A"), name.replace("residual", "lora_B")
        ended = [
            ((parent[second].double() + one.tensors[second]), (parent[first].double() + one.tensors[first]))
            for one in updates
        ]
        entries = parent[name].double().tolist()
        for row, column in torch.cartesian_prod(*map(torch.arange, parent[name].shape)).tolist():
            each = [sum(float(x * y) for x, y in zip(b[row], a[:, column], strict=True)) for b, a in ended]
            released = sum(float(x * y) for x, y in zip(found[second][row], found[first][:, column], strict=True))
            entries[row][column] += sum(each) / len(each) - released
        found[name] = torch.tensor(entries, dtype=torch.float64)
    return found, {}


def fisher(_: Strategy, parent: State, updates: Sequence[Update], __: State, ___: int) -> tuple[State, State]:
    """Matena and Raffel, number by number; what tests tell as information is above the floor."""
    state = {}
    for name, tensor in parent.items():
        found = _numbers(parent, name)
        for place in range(len(found)):
            told = [_numbers(one.tensors, f"fisher/{name}")[place] for one in updates]
            moves = [_numbers(one.tensors, name)[place] for one in updates]
            found[place] += sum(f * move for f, move in zip(told, moves, strict=True)) / sum(told)
        state[name] = _shaped(found, tensor)
    return state, {}


ORACLES: Mapping[str, Oracle] = {
    "fisher": fisher,
    "fedasync": fedasync,
    "fedbuff": fedbuff,
    "fed-sb": by_loops,
    "fedavg": by_loops,
    "feddpa": feddpa,
    "feddyn": feddyn,
    "fedper": fedper,
    "fedsa-lora": fedsa,
    "fedex-lora": fedex_lora,
    "ffa-lora": by_loops,
    **SERVER_ORACLES,
    "rolora": by_loops,
    "scaffold": scaffold,
    "fedit": by_loops,
    "flexlora": by_dense_products,
    "flora": by_dense_products,
    "hlora": by_dense_products,
    **ROBUST_ORACLES,
}
