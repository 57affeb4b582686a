"""What every strategy has to pass. Each check takes a rule and an oracle, and raises AssertionError where the rule fails.

``tests/strategies/test_conformance.py`` runs every check for every member of the kit, and shows that they catch rules that are
broken on purpose. A new rule is tested by adding it to ``STRATEGIES`` and its oracle to ``oracles.py``.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors.torch import load
from torch import Tensor

from fedrelease.errors import RoundFailed
from fedrelease.factors import FIRST, RESIDUAL, SECOND, is_factor, layers_of, trained_part
from fedrelease.messages import Answer
from fedrelease.server.spool import Screened, Spool
from fedrelease.strategies import Strategy
from fedrelease.update import State, Update, state_bytes

Oracle: TypeAlias = Callable[[Strategy, State, Sequence[Update], State, int], tuple[State, State]]
"""The slow, obvious twin: what a rule with these knobs makes of a parent, updates and its own memory in this round."""

SHAPES = {
    "encoder.0.value.lora_A": (2, 6),
    "encoder.0.value.lora_B": (5, 2),
    "head.weight": (3, 5),
    "head.bias": (3,),
    "scale": (),
}
OWN_PAIR = {"encoder.0.value.own_A": (3, 6), "encoder.0.value.own_B": (5, 3)}
"""Beside it, for rules whose sites keep such a pair."""
SITES = 11
ROUNDS = 3
CLOSE = 2e-5


def shapes_of(rule: Strategy) -> Mapping[str, tuple[int, ...]]:
    return {**SHAPES, **OWN_PAIR} if rule.keeps_own_pair else SHAPES


def parent_of(seed: int = 0) -> dict[str, Tensor]:
    """A state with LoRA factors and a head."""
    return drawn(seed, 1.0)


def start_of(rule: Strategy) -> dict[str, Tensor]:
    """The parent as a round shows it to this rule: with residuals, some rounds old, only where it writes them, as own pairs."""
    parent = drawn(0, 1.0, shapes_of(rule))
    numbers = torch.Generator().manual_seed(99)
    shapes = {layer: (len(parent[layer + SECOND]), parent[layer + FIRST].shape[1]) for layer in layers_of(parent)}
    old = {layer + RESIDUAL: 0.3 * torch.randn(shape, generator=numbers) for layer, shape in shapes.items()}
    return {**parent, **old} if rule.writes_residual else parent


def drawn(seed: int, deviation: float, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: deviation * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def update(rule: Strategy, site: int, tensors: State, seed: int = 0) -> Update:
    """With whatever a rule may want to be told: companions, steps, a loss."""
    generator = torch.Generator().manual_seed(1_000 * seed + site)
    companions = {
        f"{kind}/{name}": 0.1 * torch.rand(tensor.shape, generator=generator) + 0.05
        for kind in rule.companions
        for name, tensor in tensors.items()
    }
    return Update(
        site=f"site-{site:02d}",
        tensors={**tensors, **companions},
        examples=10 + site,
        metrics={"steps": float(2 + site % 3), "loss": 0.5 + 0.1 * site, "staleness": float(site % 3)},
        receipt=None,
        digest="",
        size_bytes=0,
    )


def updates_of(rule: Strategy, seed: int, sites: int = SITES) -> list[Update]:
    """Updates that agree in part: a common direction, and each site's own."""
    shapes = shapes_of(rule)
    common = drawn(7_000 + seed, 0.1, shapes)
    own = [drawn(10_000 * seed + site, 0.1, shapes) for site in range(sites)]
    frozen = rule.directives(seed).get("freeze")
    deltas = [{name: common[name] + one[name] for name in common} for one in own]
    for delta in deltas:
        delta.update({name: torch.zeros(shapes[name]) for name in delta if frozen and name.endswith(f".{frozen}")})
    return [update(rule, site, delta, seed) for site, delta in enumerate(deltas)]


def close(found: State, expected: State, tolerance: float = CLOSE) -> bool:
    return found.keys() == expected.keys() and all(
        torch.allclose(found[name].double(), expected[name].double(), rtol=tolerance, atol=tolerance) for name in found
    )


def same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def as_products(state: State) -> dict[str, Tensor]:
    """What the model sees of a state: each layer's ``B A`` instead of its factors."""
    products = {f"{layer}.product": state[layer + SECOND] @ state[layer + FIRST] for layer in layers_of(state.keys())}
    return {**{name: tensor for name, tensor in state.items() if not is_factor(name)}, **products}


def check_oracle(rule: Strategy, oracle: Oracle) -> None:
    """1. Round after round the rule goes where an independent reference goes."""
    state, memory = start_of(rule), dict[str, Tensor]()
    expected, remembered = start_of(rule), dict[str, Tensor]()
    for number in range(1, ROUNDS + 1):
        updates = updates_of(rule, number)
        state, memory = map(dict, rule.aggregate(state, updates, memory))
        expected, remembered = map(dict, oracle(rule, expected, updates, remembered, number))
        assert close(state, expected), f"round {number}: {_differences(state, expected)}"


def _differences(found: State, expected: State) -> str:
    if found.keys() != expected.keys():
        return f"names {sorted(found)} instead of {sorted(expected)}"
    return ", ".join(f"{name} by {float((found[name] - expected[name]).abs().max()):.2g}" for name in found)


def check_order(rule: Strategy, folder: Path) -> None:
    """2. The order in which updates arrive at the spool changes no bit."""
    results = []
    for attempt in range(3):
        updates = updates_of(rule, 1)
        random.Random(attempt).shuffle(updates)
        spool = Spool(folder / str(attempt), parent="sha256:" + "0" * 64)
        for one in updates:
            answer = Answer(site=one.site, examples=one.examples, metrics=one.metrics)
            spool.accept([Screened(site=one.site, delta=one.tensors, answer=answer)])
        results.append(rule.aggregate(start_of(rule), spool.updates(), {}))
    for state, memory in results[1:]:
        assert same(state, results[0][0]) and same(memory, results[0][1])


def check_equal_stays_equal(rule: Strategy) -> None:
    """3. One site alone gives its own state, and so do sites that all ended alike, where the rule promises so."""
    delta = updates_of(rule, 1)[0].tensors
    wanted = {name: tensor + delta.get(name, 0.0) for name, tensor in start_of(rule).items()}
    for sites in {rule.least, SITES}:
        alike = [replace(update(rule, 0, delta), site=f"site-{site:02d}") for site in range(sites)]
        state, _ = rule.aggregate(start_of(rule), alike, {})
        if rule.same_product:
            state, expected = as_products(state), as_products(wanted)
        else:
            expected = wanted
        assert close(state, expected) == rule.equal_stays_equal, f"{sites} equal sites: {_differences(state, expected)}"
        if not rule.equal_stays_equal:
            return


def check_form(rule: Strategy) -> None:
    """The state has the parent's names, shapes and dtypes; nothing that came in is changed; equal input gives equal bits."""
    parent, updates = start_of(rule), updates_of(rule, 1)
    before = [{name: tensor.clone() for name, tensor in one.tensors.items()} for one in updates]
    state, memory = rule.aggregate(parent, updates, {})
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in parent.items()
    }
    assert same(parent, start_of(rule))
    assert all(same(one.tensors, kept) for one, kept in zip(updates, before, strict=True))
    _check_broadcast(rule, parent, memory)
    again, remembered = rule.aggregate(start_of(rule), updates_of(rule, 1), {})
    assert same(state, again) and same(memory, remembered)


def _check_broadcast(rule: Strategy, parent: State, memory: State) -> None:
    """In the first round and later: nothing, or of each kind of companion one for each tensor, of its form."""
    expected = {
        f"{kind}/{name}": (tensor.shape, tensor.dtype) for kind in rule.companions for name, tensor in parent.items()
    }
    for remembered in ({}, memory):
        sent = rule.broadcast(parent, remembered)
        assert not sent or {name: (tensor.shape, tensor.dtype) for name, tensor in sent.items()} == expected


def check_hostile(rule: Strategy) -> None:
    """5. Updates that are all zero, one that is a million times too long, or too few: bounded or refused, never a crash."""
    parent = start_of(rule)
    nothing = {name: torch.zeros_like(tensor) for name, tensor in trained_part(parent).items()}
    state, memory = rule.aggregate(parent, [update(rule, site, nothing) for site in range(SITES)], {})
    assert _finite(state) and _finite(memory)
    updates = updates_of(rule, 1)
    loud = {name: 1e6 * tensor for name, tensor in drawn(3, 1.0).items()}
    updates[4] = update(rule, 4, {**updates[4].tensors, **loud})
    state, memory = rule.aggregate(parent, updates, {})
    assert _finite(state) and _finite(memory)
    try:
        rule.aggregate(parent, updates_of(rule, 1, sites=rule.least - 1), {})
    except RoundFailed as error:
        assert error.rule, "a refusal says how many updates are needed"
    else:
        raise AssertionError(f"{rule.least - 1} updates were not refused")
    assert rule.aggregate(parent, updates_of(rule, 1, sites=rule.least), {})


def _finite(state: State) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in state.values())


def check_memory(rule: Strategy) -> None:
    """6. Saved, loaded and gone on with is never stopped, bit for bit."""
    state, memory = start_of(rule), dict[str, Tensor]()
    again, kept = start_of(rule), dict[str, Tensor]()
    for number in range(1, ROUNDS + 1):
        state, memory = map(dict, rule.aggregate(state, updates_of(rule, number), memory))
        fresh = replace(rule)  # type: ignore[type-var]  # every member is a dataclass
        again, kept = map(
            dict, fresh.aggregate(load(state_bytes(again)), updates_of(rule, number), load(state_bytes(kept)))
        )
        assert same(state, again) and same(memory, kept), f"round {number}"
