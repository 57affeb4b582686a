"""Which adapter each phase has: it only grows, so that every release does at first what its parent did.

Example::

    adapters_by_phase(Adapter(rank=2), [AdapterChange(), AdapterChange(rank=4)])       # of rank 2, then of rank 4
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import accumulate
from math import inf, isclose

from fedrelease.adapter import FACTORS, KEYS, Adapter, AdapterChange
from fedrelease.bounds import require
from fedrelease.errors import ExperimentError

__all__ = ["adapters_by_phase", "check_adapters"]

ANEW = "leave it out, or begin a new experiment with a store of its own"
NOTHING: Mapping[str, str] = {
    "full": "every weight is trained, and there is nothing to add",
    "head": "the head alone is trained, and there is nothing to add",
    "prefix": "another vector before the text would change what the release says",
    "prompt": "another vector before the text would change what the release says",
}


def adapters_by_phase(first: Adapter, changes: Sequence[AdapterChange]) -> tuple[Adapter, ...]:
    """The adapter of each phase: the one before it with the phase's changes; the first phase has ``first``.

    Raises:
        ExperimentError: a key is out of bounds.
    """
    return tuple(accumulate(changes[1:], lambda before, change: change.of(before), initial=first))


def check_adapters(first: Adapter, changes: Sequence[AdapterChange]) -> None:
    """Refuse phases whose adapter could not hold what the one before has learned.

    Whether modules by name are among those of ``attention``, only the base can tell: that is for the server to see.

    Raises:
        ExperimentError: the text names the phase, from 0 as in ``--set phase.1.adapter.rank=8``.
    """
    key, rule = "phase.0.adapter", "is left out: the first phase has model.adapter"
    require(not changes[0].given, key, dict(changes[0].given), rule, "set these keys in [model.adapter]")
    before = first
    for place, change in enumerate(changes[1:], start=1):
        before = _checked(before, change, f"phase.{place}.adapter")


def _checked(before: Adapter, change: AdapterChange, key: str) -> Adapter:
    """The phase's adapter, once nothing is in its way."""
    _check_kind(before, change, key)
    _check_scale(before, change, key)
    rule = "stays true: the matrices hold what averaged factors missed"
    require(not before.residual or change.residual is not False, f"{key}.residual", False, rule, ANEW)
    try:
        after = change.of(before)
    except ExperimentError as error:
        own = {part: getattr(error, part).replace("model.adapter", key) for part in ("what", "rule", "hint")}
        raise ExperimentError(own["what"], value=error.value, rule=own["rule"], hint=own["hint"]) from error
    rule = f"has at least the layers of the phase before, {before.layers}: what others learned has no other place"
    require(_depth(after.layers) >= _depth(before.layers), f"{key}.layers", after.layers, rule, ANEW)
    rule = f"is at least {before.own_rank}, that of the phase before: what sites keep has no other place"
    require(after.own_rank >= before.own_rank, f"{key}.own_rank", after.own_rank, rule, ANEW)
    rule = f"has at least the modules of the phase before, {before.targets}"
    require(_may_hold(before.targets, after.targets), f"{key}.targets", after.targets, rule, ANEW)
    return after


def _check_kind(before: Adapter, change: AdapterChange, key: str) -> None:
    rule = f'is "{before.kind}" as in the phase before: what one kind has learned has no place in another'
    require(change.kind in (None, before.kind), f"{key}.kind", change.kind, rule, ANEW)
    fixed = {name: value for name, value in change.given.items() if name not in ("kind", *_growing(before.kind))}
    name = next(iter(fixed), "")
    rule = f'is left out with kind = "{before.kind}": {NOTHING.get(before.kind, "it says nothing there")}'
    require(not fixed, f"{key}.{name}", fixed.get(name), rule)


def _growing(kind: str) -> tuple[str, ...]:
    """The keys by which a phase may change an adapter; of factors and cores each has a rule of its own."""
    return tuple(field.name for field in fields(AdapterChange)) if kind in FACTORS else KEYS[kind]


def _check_scale(before: Adapter, change: AdapterChange, key: str) -> None:
    rank, scale = change.rank or before.rank, before.scaling
    rule = f"is at least {before.rank}, the rank of the phase before: fewer cannot hold what it learned"
    require(rank >= before.rank, f"{key}.rank", change.rank, rule, ANEW)
    alpha = scale * before.divisor(rank)
    fits = change.alpha is None or isclose(change.alpha, alpha, rel_tol=1e-12)
    divisor = "sqrt(rank)" if before.rank_stabilised else "rank"
    rule = f"keeps alpha / {divisor} at {scale:g}, by which what was learned is multiplied"
    require(fits, f"{key}.alpha", change.alpha, rule, f"leave it out: it grows with the rank, to {alpha:g}")


def _depth(layers: str) -> float:
    return inf if layers == "all" else int(layers.partition(":")[2])


def _may_hold(before: str, after: str) -> bool:
    """Whether all modules of ``before`` may be among those of ``after``."""
    if after in (before, "all-linear") or before == "all-linear":
        return after in (before, "all-linear")
    return "attention" in (before, after) or set(before.split(",")) <= set(after.split(","))
