"""Many sites side by side in bounded memory: a chunk of coordinates of all of them at a time, in float64.

Example::

    middle = by_coordinate(parent, updates, lambda rows: rows.median(0).values)
    products = gram([update.tensors for update in updates], list(parent))

At most ``NUMBERS`` numbers of 8 bytes (64 MiB) are stacked at a time, and one tensor of one site beside them; a rule that sorts
needs about three times that. More sites make chunks shorter; of a file only the rows that a chunk lies in are read.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fedrelease.strategies.averaging import moved_by_mean
from fedrelease.update import State, Update, part_of

__all__ = ["by_coordinate", "gram", "moved", "squared_distances", "squared_lengths", "stacked_chunks"]

NUMBERS = 1 << 23


def stacked_chunks(states: Sequence[State], name: str) -> Iterator[Tensor]:
    """The states' tensors of one name, flat, side by side: float64 ``[states, coordinates]``, a chunk of coordinates at a time.

    The next chunk is written over the last one.
    """
    size, wide = states[0][name].numel(), max(1, NUMBERS // len(states))
    rows = torch.empty(len(states), min(size, wide), dtype=torch.float64)
    for start in range(0, size, wide):
        chunk = rows[:, : min(wide, size - start)]
        for row, state in zip(chunk, states, strict=True):
            row.copy_(part_of(state, name, start, start + chunk.shape[1]))
        yield chunk


def by_coordinate(parent: State, updates: Sequence[Update], rule: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The parent plus what ``rule`` makes of ``[sites, coordinates]`` for each coordinate, in the parent's dtypes."""
    return {name: tensor + _ruled(name, tensor, updates, rule).to(tensor.dtype) for name, tensor in parent.items()}


def _ruled(name: str, parent: Tensor, updates: Sequence[Update], rule: Callable[[Tensor], Tensor]) -> Tensor:
    chunks = stacked_chunks([update.tensors for update in updates], name)
    return torch.cat([rule(chunk) for chunk in chunks]).reshape(parent.shape)


def gram(states: Sequence[State], names: Sequence[str]) -> Tensor:
    """Every inner product of two states over these names, float64 ``[states, states]``: 8 MB for a thousand states.

    Lengths, distances and those of any weighted sum follow from it, so that tensors are read once however often a rule looks.
    """
    total = torch.zeros(len(states), len(states), dtype=torch.float64)
    for name in names:
        for chunk in stacked_chunks(states, name):
            total += chunk @ chunk.T
    return total


def squared_distances(products: Tensor) -> Tensor:
    """``|x_i - x_j|^2`` from a Gram matrix; rounding makes none of them negative."""
    lengths = products.diagonal()
    return (lengths[:, None] + lengths[None, :] - 2 * products).clamp(min=0.0)


def squared_lengths(updates: Sequence[Update], names: Sequence[str]) -> Tensor:
    """``|x_i|^2`` of each update's delta over these names, float64 ``[sites]``, one tensor of one site at a time."""
    return torch.stack([torch.stack([_square(update.tensors[name]) for name in names]).sum() for update in updates])


def _square(tensor: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(tensor, dtype=torch.float64)
    return length.square()


def moved(parent: State, updates: Sequence[Update], weights: Sequence[float]) -> dict[str, Tensor]:
    """The parent plus the weighted sum of deltas. A weight of 0 leaves its update out, whatever is in it."""
    kept = [(update, weight) for update, weight in zip(updates, weights, strict=True) if weight != 0.0]
    few, shares = [update for update, _ in kept], [weight for _, weight in kept]
    return {name: moved_by_mean(name, tensor, few, shares) for name, tensor in parent.items()}
