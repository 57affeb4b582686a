"""References for the rules against hostile sites: Flower's classes, and slow loops over plain lists of numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from conformance import Oracle
from flwr.serverapp import strategy as flower
from torch import Tensor

from fedrelease.server.flower_strategies import from_flower
from fedrelease.strategies import Strategy
from fedrelease.strategies.clipping import CenteredClip, NormBound
from fedrelease.strategies.foolsgold import FoolsGold
from fedrelease.strategies.geometric_median import GeometricMedian
from fedrelease.update import State, Update

Vector = list[float]


def flowers(kind: type[flower.Strategy], knobs_of: Callable[[Strategy, int], Mapping[str, float]]) -> Oracle:
    """Flower's class, whose knobs follow from ours and the number of updates; sites with equal numbers of examples."""

    def oracle(rule: Strategy, parent: State, updates: Sequence[Update], memory: State, _: int) -> tuple[State, State]:
        theirs = from_flower(kind(fraction_evaluate=0.0, **knobs_of(rule, len(updates))))
        return theirs.aggregate(parent, [replace(update, examples=1) for update in updates], memory)

    return oracle


def _krum(rule: Strategy, sites: int) -> Mapping[str, float]:
    hostile = getattr(rule, "hostile")  # noqa: B009
    return {"num_malicious_nodes": (sites - 3) // 2 if hostile is None else hostile}


def _multi_krum(rule: Strategy, sites: int) -> Mapping[str, float]:
    hostile = int(_krum(rule, sites)["num_malicious_nodes"])
    keep = getattr(rule, "keep")  # noqa: B009
    return {"num_malicious_nodes": hostile, "num_nodes_to_select": keep or sites - hostile - 2}


def _bulyan(rule: Strategy, sites: int) -> Mapping[str, float]:
    hostile = getattr(rule, "hostile")  # noqa: B009
    return {"num_malicious_nodes": (sites - 3) // 4 if hostile is None else hostile}


def _trimmed(rule: Strategy, sites: int) -> Mapping[str, float]:
    trim = getattr(rule, "trim")  # noqa: B009
    return {"beta": trim if isinstance(trim, float) else (trim + 0.5) / sites}


def _vector(state: State, names: Sequence[str]) -> Vector:
    return [float(number) for name in names for number in state[name].flatten()]


def _length(vector: Vector) -> float:
    return math.sqrt(sum(number * number for number in vector))


def _less(one: Vector, other: Vector) -> Vector:
    return [a - b for a, b in zip(one, other, strict=True)]


def _median(numbers: Sequence[float]) -> float:
    ordered = sorted(numbers)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _state(parent: State, delta: Vector) -> dict[str, Tensor]:
    found, start = {}, 0
    for name, tensor in parent.items():
        part = torch.tensor(delta[start : start + tensor.numel()], dtype=torch.float64).reshape(tensor.shape)
        found[name], start = tensor.double() + part, start + tensor.numel()
    return found


def _sum(vectors: Sequence[Vector], weights: Sequence[float]) -> Vector:
    return [sum(w * number for w, number in zip(weights, column, strict=True)) for column in zip(*vectors, strict=True)]


def norm_bound(rule: Strategy, parent: State, updates: Sequence[Update], _: State, __: int) -> tuple[State, State]:
    assert isinstance(rule, NormBound)
    vectors = [_vector(update.tensors, list(parent)) for update in updates]
    bound = rule.length or rule.multiple * _median([_length(vector) for vector in vectors])
    return _state(parent, _sum(vectors, [min(1.0, bound / _length(v)) / len(vectors) for v in vectors])), {}


def centered_clip(
    rule: Strategy, parent: State, updates: Sequence[Update], memory: State, _: int
) -> tuple[State, State]:
    assert isinstance(rule, CenteredClip)
    vectors = [_vector(update.tensors, list(parent)) for update in updates]
    centre = memory["centre"].tolist() if memory else [0.0] * len(vectors[0])
    for _step in range(rule.iterations):
        gaps = [_less(vector, centre) for vector in vectors]
        radius = rule.radius or _median([_length(gap) for gap in gaps])
        step = _sum(gaps, [min(1.0, radius / _length(gap)) / len(gaps) for gap in gaps])
        centre = [a + b for a, b in zip(centre, step, strict=True)]
    return _state(parent, centre), {"centre": torch.tensor(centre, dtype=torch.float64)}


def geometric_median(
    rule: Strategy, parent: State, updates: Sequence[Update], _: State, __: int
) -> tuple[State, State]:
    """Weiszfeld as it is written: distances of vectors, not of products."""
    assert isinstance(rule, GeometricMedian)
    vectors = [_vector(update.tensors, list(parent)) for update in updates]
    point = _sum(vectors, [1 / len(vectors)] * len(vectors))
    for _step in range(rule.iterations):
        inverse = [1 / max(rule.smoothing, _length(_less(vector, point))) for vector in vectors]
        point = _sum(vectors, [one / sum(inverse) for one in inverse])
    return _state(parent, point), {}


def foolsgold(rule: Strategy, parent: State, updates: Sequence[Update], memory: State, _: int) -> tuple[State, State]:
    """Algorithm 1 with its loops; the memory is one vector a site."""
    assert isinstance(rule, FoolsGold)
    names = [name for name in parent if name.startswith(rule.compared)]
    sums = {}
    for update in updates:
        now = _vector(update.tensors, names)
        before = memory[update.site].tolist() if update.site in memory else [0.0] * len(now)
        sums[update.site] = [a + b for a, b in zip(before, now, strict=True)]
    weights = _foolsgold_weights(list(sums.values()), rule.confidence)
    vectors = [_vector(update.tensors, list(parent)) for update in updates]
    state = _state(parent, _sum(vectors, [weight / sum(weights) for weight in weights]))
    return state, {site: torch.tensor(vector, dtype=torch.float64) for site, vector in sums.items()}


def _foolsgold_weights(sums: Sequence[Vector], confidence: float) -> Vector:
    sites = range(len(sums))
    likeness = [
        [
            sum(a * b for a, b in zip(sums[i], sums[j], strict=True)) / (_length(sums[i]) * _length(sums[j]))
            for j in sites
        ]
        for i in sites
    ]
    most = [max(0.0, *(likeness[i][j] for j in sites if j != i)) for i in sites]
    for i in sites:
        for j in sites:
            if i != j and most[j] > most[i]:
                likeness[i][j] *= most[i] / most[j]
    alone = [min(1.0, max(0.0, 1 - max(likeness[i][j] for j in sites if j != i))) for i in sites]
    scaled = [min(0.99, one / max(alone)) for one in alone]
    return [min(1.0, max(0.0, confidence * (math.log(one / (1 - one)) + 0.5))) if one > 0 else 0.0 for one in scaled]


ROBUST_ORACLES: Mapping[str, Oracle] = {
    "bulyan": flowers(flower.Bulyan, _bulyan),
    "centered-clip": centered_clip,
    "foolsgold": foolsgold,
    "geometric-median": geometric_median,
    "krum": flowers(flower.Krum, _krum),
    "median": flowers(flower.FedMedian, lambda *_: {}),
    "multi-krum": flowers(flower.MultiKrum, _multi_krum),
    "norm-bound": norm_bound,
    "trimmed-mean": flowers(flower.FedTrimmedAvg, _trimmed),
}
