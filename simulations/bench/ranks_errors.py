"""How far a rule's product is from the dense mean of the sites' products.

Example::

    for miss in misses(drawn_factors((4, 8, 16), width=384, seed=0)):
        print(miss.rule, miss.relative)
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from fedrelease.experiment import StrategyChoice
from fedrelease.factors import FIRST, SECOND, layers_of, truncated
from fedrelease.files import Json
from fedrelease.simulations.bench.ranks_factors import Factors
from fedrelease.strategies import STRATEGIES, make_strategy
from fedrelease.strategies.flora import stacked_factors

__all__ = ["Miss", "misses"]

RULES = ("fedavg", "fedit", "flexlora", "flora", "hlora")
STACK = "stack (exact)"
BEST = "best of rank (dense SVD)"


@dataclass(frozen=True, kw_only=True)
class Miss:
    """One rule on one round's factors.

    Attributes:
        rank: of the result.
        largest: the largest absolute error of any number of any layer's product.
        relative: the Frobenius norm of the error over that of the mean, in the worst layer.
    """

    factors: str
    ranks: tuple[int, ...]
    rule: str
    rank: int
    largest: float
    relative: float

    def to_json(self) -> dict[str, Json]:
        """Plain values."""
        return {**asdict(self), "ranks": list(self.ranks)}


def misses(given: Factors) -> Iterator[Miss]:
    """Every rule that can add up these ranks, the exact stack, and the best that the parent's rank allows."""
    means = {layer: _dense_mean(given, layer) for layer in layers_of(given.parent.keys())}
    for rule in RULES:
        if len(set(given.ranks)) == 1 or STRATEGIES[rule].mixed_ranks:
            state, _ = make_strategy(StrategyChoice(name=rule)).aggregate(given.parent, given.updates, {})
            found = {layer: state[layer + SECOND].double() @ state[layer + FIRST].double() for layer in means}
            yield _miss(given, rule, max(given.ranks), found, means)
    yield _miss(
        given, BEST, max(given.ranks), {layer: _cut(one, max(given.ranks)) for layer, one in means.items()}, means
    )
    yield _miss(given, STACK, sum(given.ranks), {layer: _stack(given, layer) for layer in means}, means)


def _miss(given: Factors, rule: str, rank: int, found: dict[str, Tensor], means: dict[str, Tensor]) -> Miss:
    off = {layer: found[layer] - mean for layer, mean in means.items()}
    return Miss(
        factors=given.name,
        ranks=given.ranks,
        rule=rule,
        rank=rank,
        largest=max(float(one.abs().max()) for one in off.values()),
        relative=max(float(off[layer].norm() / mean.norm()) for layer, mean in means.items()),
    )


def _dense_mean(given: Factors, layer: str) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for update, rank in zip(given.updates, given.ranks, strict=True):
        start = truncated(given.parent, rank)
        first, second = (start[layer + kind].double() + update.tensors[layer + kind] for kind in (FIRST, SECOND))
        total = total + second @ first / len(given.updates)
    return total


def _cut(mean: Tensor, rank: int) -> Tensor:
    u, values, v = torch.linalg.svd(mean)
    cut: Tensor = (u[:, :rank] * values[:rank]) @ v[:rank]
    return cut


def _stack(given: Factors, layer: str) -> Tensor:
    first, second = stacked_factors(layer, given.parent, given.updates, [1 / len(given.updates)] * len(given.updates))
    return second @ first
