"""References for members that differ on the server only: Flower's classes, and loops over single numbers."""

import gc
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from conformance import Oracle
from flwr.serverapp import strategy as flower
from torch import Tensor

from fedrelease.server.flower_strategies import from_flower
from fedrelease.strategies import Strategy
from fedrelease.update import State, Update

Numbers = dict[str, list[float]]


def knob(rule: Strategy, name: str) -> float:
    return float(getattr(rule, name))


def by_flower(kind: type[flower.Strategy], **names: str) -> Oracle:
    """Flower's class, its arguments taken from our knobs by ``names``, with one vote for each site."""

    def oracle(
        rule: Strategy, parent: State, updates: Sequence[Update], memory: State, number: int
    ) -> tuple[State, State]:
        knobs = {theirs: knob(rule, ours) for theirs, ours in names.items()}
        return flowers(kind, parent, updates, memory, **knobs)

    return oracle


def flowers(
    kind: type[flower.Strategy], parent: State, updates: Sequence[Update], memory: State, **knobs: float | str
) -> tuple[State, State]:
    uniform = [replace(one, examples=1) for one in updates]
    return from_flower(kind(fraction_evaluate=0.0, **knobs)).aggregate(parent, uniform, memory)


def from_tau(parent: State, memory: State, tau: float) -> State:
    """The paper begins at v = tau^2, and Flower at v = 0: a memory from which Flower begins where the paper does."""
    return memory or {f"v_t/{name}": torch.full_like(tensor, tau**2) for name, tensor in parent.items()}


def fedadagrad(rule: Strategy, parent: State, updates: Sequence[Update], memory: State, _: int) -> tuple[State, State]:
    begun = from_tau(parent, memory, knob(rule, "tau"))
    return flowers(flower.FedAdagrad, parent, updates, begun, eta=knob(rule, "lr"), tau=knob(rule, "tau"))


def fedyogi(rule: Strategy, parent: State, updates: Sequence[Update], memory: State, _: int) -> tuple[State, State]:
    begun = from_tau(parent, memory, knob(rule, "tau"))
    knobs = {"beta_1": knob(rule, "beta1"), "beta_2": knob(rule, "beta2"), "tau": knob(rule, "tau")}
    return flowers(flower.FedYogi, parent, updates, begun, eta=knob(rule, "lr"), **knobs)


def fedadam(
    rule: Strategy, parent: State, updates: Sequence[Update], memory: State, number: int
) -> tuple[State, State]:
    """Flower's, whose rate in round t is eta sqrt(1 - beta2^(t+1)) / (1 - beta1^(t+1)): divided out, the paper has none."""
    begun = from_tau(parent, memory, knob(rule, "tau"))
    beta1, beta2 = knob(rule, "beta1"), knob(rule, "beta2")
    eta = knob(rule, "lr") * (1 - beta1 ** (number + 1)) / math.sqrt(1 - beta2 ** (number + 1))
    return flowers(flower.FedAdam, parent, updates, begun, eta=eta, beta_1=beta1, beta_2=beta2, tau=knob(rule, "tau"))


def qfedavg(rule: Strategy, parent: State, updates: Sequence[Update], memory: State, _: int) -> tuple[State, State]:
    knobs = {"client_learning_rate": knob(rule, "local_lr"), "q": knob(rule, "q")}
    gc.freeze()  # Flower collects garbage after each site, and all that torch ever made would be looked through
    try:
        return flowers(flower.QFedAvg, parent, updates, memory, train_loss_key="loss", **knobs)
    finally:
        gc.unfreeze()


Place = Callable[[float, list[float], list[float]], tuple[float, list[float]]]
"""One number of the parent, what each site changed it by, and what is remembered of it -> the new number, and memory."""


def by_places(parent: State, updates: Sequence[Update], memory: State, move: Place) -> tuple[State, State]:
    """Rules that treat every number alike. What is remembered of a number lies in the last dimension of the memory."""
    state, kept = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in parent.items():
        remembered = memory[name].reshape(tensor.numel(), -1).tolist() if name in memory else [[]] * tensor.numel()
        changes = [one.tensors[name].double().flatten().tolist() for one in updates]
        found = [
            move(number, [change[place] for change in changes], remembered[place])
            for place, number in enumerate(tensor.double().flatten().tolist())
        ]
        state[name] = torch.tensor([number for number, _ in found], dtype=torch.float64).reshape(tensor.shape)
        kept[name] = torch.tensor([after for _, after in found], dtype=torch.float64)
    return state, kept


def adam(rule: Strategy, parent: State, updates: Sequence[Update], memory: State, number: int) -> tuple[State, State]:
    """Kingma and Ba (2015), algorithm 1, with the defaults of torch."""

    def move(value: float, changes: list[float], remembered: list[float]) -> tuple[float, list[float]]:
        gradient = -sum(changes) / len(changes)
        m, v = remembered or [0.0, 0.0]
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        step = (m / (1 - 0.9**number)) / (math.sqrt(v / (1 - 0.999**number)) + 1e-8)
        return value - knob(rule, "lr") * step, [m, v]

    return by_places(parent, updates, memory, move)


def diloco(rule: Strategy, parent: State, updates: Sequence[Update], memory: State, _: int) -> tuple[State, State]:
    """Nesterov's momentum as Sutskever et al. (2013) write it: the step looks one momentum ahead."""

    def move(value: float, changes: list[float], remembered: list[float]) -> tuple[float, list[float]]:
        gradient = -sum(changes) / len(changes)
        velocity = knob(rule, "momentum") * (remembered[0] if remembered else 0.0) + gradient
        return value - knob(rule, "lr") * (gradient + knob(rule, "momentum") * velocity), [velocity]

    return by_places(parent, updates, memory, move)


def fednova(_: Strategy, parent: State, updates: Sequence[Update], memory: State, __: int) -> tuple[State, State]:
    """Every site's change for one of its steps, averaged; then as many of those steps as sites took on average."""
    steps = [one.metrics["steps"] for one in updates]

    def move(value: float, changes: list[float], _: list[float]) -> tuple[float, list[float]]:
        one_step = sum(change / taken for change, taken in zip(changes, steps, strict=True)) / len(steps)
        return value + sum(steps) / len(steps) * one_step, []

    return by_places(parent, updates, {}, move)[0], {}


def task_arithmetic(
    rule: Strategy, parent: State, updates: Sequence[Update], memory: State, _: int
) -> tuple[State, State]:
    def move(value: float, changes: list[float], _: list[float]) -> tuple[float, list[float]]:
        return value + knob(rule, "scaling") * sum(changes), []

    return by_places(parent, updates, {}, move)[0], {}


def ties(rule: Strategy, parent: State, updates: Sequence[Update], memory: State, _: int) -> tuple[State, State]:
    """On numbers that were trimmed before, by sorting them."""

    def trim(numbers: Tensor) -> Tensor:
        count = math.ceil(knob(rule, "density") * numbers.numel())
        places = sorted(range(numbers.numel()), key=lambda place: -abs(float(numbers.flatten()[place])))[:count]
        kept = [float(value) if place in places else 0.0 for place, value in enumerate(numbers.flatten())]
        return torch.tensor(kept, dtype=torch.float64).reshape(numbers.shape)

    def move(value: float, changes: list[float], _: list[float]) -> tuple[float, list[float]]:
        agreed = [change for change in changes if change * sum(changes) > 0]
        return value + (knob(rule, "scaling") * sum(agreed) / len(agreed) if agreed else 0.0), []

    cut = [replace(one, tensors={name: trim(one.tensors[name]) for name in parent}) for one in updates]
    return by_places(parent, cut, {}, move)[0], {}


def dare(rule: Strategy, parent: State, updates: Sequence[Update], memory: State, number: int) -> tuple[State, State]:
    """The same draws, one number at a time."""
    drop, state = knob(rule, "drop"), dict[str, Tensor]()
    for name, tensor in parent.items():
        numbers = tensor.double().flatten().tolist()
        for one in updates:
            text = "\x1f".join([str(getattr(rule, "seed")), str(number), one.site, name])  # noqa: B009
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") // 2
            draws = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed)).flatten().tolist()
            for place, draw in enumerate(draws):
                if draw >= drop:
                    numbers[place] += float(one.tensors[name].flatten()[place]) / (1 - drop) / len(updates)
        state[name] = torch.tensor(numbers, dtype=torch.float64).reshape(tensor.shape)
    return state, {}


SERVER_ORACLES: Mapping[str, Oracle] = {
    "dare": dare,
    "diloco": diloco,
    "fedadagrad": fedadagrad,
    "fedadam": fedadam,
    "fedavgm": by_flower(flower.FedAvgM, server_learning_rate="lr", server_momentum="momentum"),
    "fednova": fednova,
    "fedopt": adam,
    "fedprox": by_flower(flower.FedProx, proximal_mu="mu"),
    "fedyogi": fedyogi,
    "qfedavg": qfedavg,
    "task-arithmetic": task_arithmetic,
    "ties": ties,
}
