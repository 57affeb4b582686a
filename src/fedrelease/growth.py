"""Tensors that grow with labels and adapter: what was learned stays bit for bit, and what is new comes beside it.

Example::

    grown(parent.state(), like=fresh)["head.weight"]       # the parent's rows, then the fresh state's rows for new labels
    grown(parent.state(), like=fresh)["encoder.layer.5.attention.self.query.lora_B"]      # new columns: zero, as in a fresh one
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedrelease.factors import CORE, FIRST, OWN_FIRST, OWN_SECOND, SECOND
from fedrelease.update import State

__all__ = ["grown", "grown_head", "grown_with_zeros"]

HEAD = ("head.bias", "head.weight")
GROWING: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(HEAD, (0,)),
    FIRST: (0,),
    SECOND: (1,),
    OWN_FIRST: (0,),
    OWN_SECOND: (1,),
    CORE: (0, 1),
    ".bottleneck.down.weight": (0,),
    ".bottleneck.down.bias": (0,),
    ".bottleneck.up.weight": (1,),
}
"""What the names of tensors end in that grow, of a state and of all that is kept beside it, and along which dimensions: a head
has one row a label; a factor A one row, B one column, and a core one of each a rank; a bottleneck and a site's own pair as A and
B."""


def grown(state: State, *, like: State) -> dict[str, Tensor]:
    """``state`` with all that ``like`` has more: its own numbers, bit for bit, and those of ``like`` in new places.

    ``head.weight`` is ``[labels, width]``, ``head.bias`` ``[labels]``, A ``[rank, in]``, B ``[out, rank]``, a core
    ``[rank, rank]``. New rows and columns come behind the old ones; tensors that ``state`` lacks are those of ``like``. Tensors
    that ``like`` does not have, or that fit in no place there, stay as they are.

    Guarantees: where ``like`` is a state before training, the function of the model stays: new columns of B, new rows and columns
    of a core, and the B, core and residual of a new layer are zero, so that what they multiply adds nothing, and the factor
    ``alpha / rank`` of old ones is the same. Sums of more terms may differ in their last bits.
    """
    old = {name: _grown(name, tensor, like.get(name)) for name, tensor in state.items()}
    return {**old, **{name: tensor for name, tensor in like.items() if name not in old}}


def grown_head(state: State, *, like: State) -> dict[str, Tensor]:
    """``state`` with the rows for labels that ``like`` has more; all else stays, whatever ``like`` has."""
    heads = {name: like[name] for name in state if name in like and name.endswith(HEAD)}
    return {name: _grown(name, tensor, heads.get(name)) for name, tensor in state.items()}


def grown_with_zeros(kept: State, *, like: State) -> dict[str, Tensor]:
    """What is kept beside a state by its names, as in ``momentum/head.bias``, with zeros in the places that it lacks.

    Zeros are what momentum, second moments, control variates and sums of updates begin with. A tensor of which nothing is kept
    stays so: whoever keeps something begins with it as in a first round.
    """
    return {kept_as: _grown_with_zeros(kept_as, tensor, like) for kept_as, tensor in kept.items()}


def _grown_with_zeros(kept_as: str, tensor: Tensor, like: State) -> Tensor:
    name = kept_as.rpartition("/")[2]
    return _grown(name, tensor, torch.zeros_like(like[name])) if name in like else tensor


def _grown(name: str, tensor: Tensor, like: Tensor | None) -> Tensor:
    if like is None or not _fits(name, tensor, like):
        return tensor
    whole = like.to(tensor.dtype, copy=True)
    whole[tuple(slice(size) for size in tensor.shape)] = tensor
    return whole


def _fits(name: str, tensor: Tensor, like: Tensor) -> bool:
    """Whether a tensor is smaller than its like, and that only along dimensions in which it grows."""
    dims = next((dims for end, dims in GROWING.items() if name.endswith(end)), ())
    if tensor.dim() != like.dim() or tensor.shape == like.shape:
        return False
    sizes = enumerate(zip(tensor.shape, like.shape, strict=True))
    return all(old == new or (dim in dims and old < new) for dim, (old, new) in sizes)
