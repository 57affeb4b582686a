"""Rules that shorten what is long: a bound on every update's length, and clipping around a centre that is remembered.

Example::

    NormBound(multiple=1.0).aggregate(parent, updates, {})[0]["head.bias"]
    state, memory = CenteredClip().aggregate(parent, updates, memory)

Left to themselves both take their radius from the median site, which fewer than half of the sites cannot push beyond the
honest ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrelease.strategies.averaging import mean_delta
from fedrelease.strategies.chunks import gram, moved, squared_lengths
from fedrelease.strategies.contract import Strategy, check_enough
from fedrelease.strategies.order_statistics import middle_of
from fedrelease.strategies.ranges import positive, whole
from fedrelease.update import State, Update

__all__ = ["CenteredClip", "NormBound"]

CENTRE = "centre/"


def _factors(lengths: Tensor, bound: float | Tensor) -> Tensor:
    """What a vector of each length is multiplied by to be no longer than the bound; a length of 0 stays."""
    return torch.where(lengths > bound, bound / lengths, 1.0)


@dataclass(frozen=True, kw_only=True)
class NormBound(Strategy):
    """The parent plus the mean of the deltas, none of them longer than a bound. One site, one vote.

    Args:
        length: the bound (L2 over all tensors, parameter units); left out = ``multiple`` times the median of the lengths. With a
            fixed length honest sites that went farther are shortened too.
        multiple: of the median length, where ``length`` is left out.

    Guarantees: the release moves by at most the bound, and each site moves it by at most the bound divided by the number of
    sites. Direction is not looked at. One tensor of one site is in memory at a time.

    Source: Sun et al. (2019), https://arxiv.org/abs/1911.07963, section 4 (norm thresholding).
    """

    length: float | None = None
    multiple: float = 1.0

    def __post_init__(self) -> None:
        """Check the knobs."""
        if self.length is not None:
            positive("length", self.length)
        positive("multiple", self.multiple)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Measure, then add up, in float64; the result has the parent's dtypes.

        Raises:
            RoundFailed: no update.
        """
        check_enough(self, "norm-bound", updates)
        lengths = squared_lengths(updates, list(parent)).sqrt()
        bound = self.multiple * middle_of(lengths.sort().values) if self.length is None else self.length
        return moved(parent, updates, (_factors(lengths, bound) / len(updates)).tolist()), {}


@dataclass(frozen=True, kw_only=True)
class CenteredClip(Strategy):
    """The parent plus a centre that moves, step by step, by the mean of the sites' clipped differences from it.

    The centre starts where the last round's delta ended (memory: ``centre/<name>``, in the parent's dtypes), at 0 in the first
    round. Each step is a weighted sum of the updates and the old centre, so that all follows from one Gram matrix: tensors are
    read once for it and once for the result, in chunks as :mod:`fedrelease.strategies.chunks` says. The paper's sites send
    momentum; ours send the delta of their local training.

    Args:
        radius: tau of the paper: a site counts with at most this distance from the centre (parameter units); left out = in each
            step the median of the distances.
        iterations: steps in a round.

    Guarantees (radius left out, a share a < 1/2 of hostile sites, R = the farthest honest site's distance from the honest mean):
    no step leaves the centre farther from the honest mean than it was, or than ((1 + a) / (1 - 2 a) + a) R, whichever is more.

    Source: Karimireddy et al. (2021), https://arxiv.org/abs/2012.10333, algorithm 2.
    """

    radius: float | None = None
    iterations: int = 3

    def __post_init__(self) -> None:
        """Check the knobs."""
        if self.radius is not None:
            positive("radius", self.radius)
        whole("iterations", self.iterations, least=1)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Find the weights in float64, then add up once; state and memory have the parent's dtypes.

        Raises:
            RoundFailed: no update.
        """
        check_enough(self, "centered-clip", updates)
        centre = {name: memory.get(CENTRE + name, torch.zeros_like(tensor)) for name, tensor in parent.items()}
        products = gram([*(update.tensors for update in updates), centre], list(parent))
        *weights, old = self._weights(products).tolist()
        state, memory = {}, {}
        for name, tensor in parent.items():
            delta = mean_delta(name, tensor, updates, weights).add_(centre[name], alpha=old)
            state[name] = (tensor.to(torch.float64) + delta).to(tensor.dtype)
            memory[CENTRE + name] = delta.to(tensor.dtype)
        return state, memory

    def _weights(self, products: Tensor) -> Tensor:
        """Of the updates and, last, the old centre, in the new centre."""
        sites = len(products) - 1
        weights = torch.zeros(sites + 1, dtype=torch.float64)
        weights[-1] = 1.0
        for _ in range(self.iterations):
            along = products @ weights
            distances = (products.diagonal() - 2 * along + weights @ along).clamp(min=0.0).sqrt()[:-1]
            radius = middle_of(distances.sort().values) if self.radius is None else self.radius
            shares = _factors(distances, radius) / sites
            weights = weights * (1 - shares.sum())
            weights[:-1] += shares
        return weights
