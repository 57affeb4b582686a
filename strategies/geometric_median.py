"""The geometric median of updates: the point with the least sum of distances to them.

Example::

    GeometricMedian(iterations=100).aggregate(parent, updates, {})[0]["head.bias"]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrelease.strategies.chunks import gram, moved
from fedrelease.strategies.contract import Strategy, check_enough
from fedrelease.strategies.ranges import positive, whole
from fedrelease.update import State, Update

__all__ = ["GeometricMedian"]


@dataclass(frozen=True, kw_only=True)
class GeometricMedian(Strategy):
    """The parent plus the deltas' smoothed geometric median (RFA), all tensors together one vector. One site, one vote.

    Every step of Weiszfeld's algorithm is a weighted mean of the updates, so that distances follow from the Gram matrix:
    tensors are read once for it and once for the result, however many steps there are. Memory is bounded as
    :mod:`fedrelease.strategies.chunks` says.

    Args:
        iterations: steps from the mean on; always so many. A step is arithmetic on ``[sites, sites]`` numbers.
        smoothing: distances below it count as it (parameter units); nu in the paper.

    Guarantees: with a share a < 1/2 of hostile sites, whatever they send, the geometric median is no farther from the honest
    mean than 2 (1 - a) / (1 - 2 a) times the farthest honest site. The iterations come as near to it as they get: a hostile
    update that is far away is left behind by a factor of about a / (1 - a) in each.

    Source: Pillutla et al. (2022), https://arxiv.org/abs/1912.13445, algorithm 2 (smoothed Weiszfeld).
    """

    iterations: int = 100
    smoothing: float = 1e-6

    def __post_init__(self) -> None:
        """Check the knobs."""
        whole("iterations", self.iterations, least=1)
        positive("smoothing", self.smoothing)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Find the weights in float64, then add up once; the result has the parent's dtypes.

        Raises:
            RoundFailed: no update.
        """
        check_enough(self, "geometric-median", updates)
        products = gram([update.tensors for update in updates], list(parent))
        weights = torch.full((len(updates),), 1 / len(updates), dtype=torch.float64)
        for _ in range(self.iterations):
            inverse = 1 / _distances(products, weights).clamp(min=self.smoothing)
            weights = inverse / inverse.sum()
        return moved(parent, updates, weights.tolist()), {}


def _distances(products: Tensor, weights: Tensor) -> Tensor:
    """Of each vector to the weighted sum of all: ``|x_i|^2 - 2 x_i v + |v|^2`` out of inner products."""
    along = products @ weights
    return (products.diagonal() - 2 * along + weights @ along).clamp(min=0.0).sqrt()
