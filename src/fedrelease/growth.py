"""Tensors that grow with the labels: what was learned stays bit for bit, and rows for new labels come below it.

Example::

    grown(parent.state(), like=fresh)["head.weight"]       # the parent's rows, then the fresh state's rows for new labels
"""

import torch
from torch import Tensor

from fedrelease.update import State

__all__ = ["grown", "grown_with_zeros"]

BY_LABEL = ("head.bias", "head.weight")
"""What the names of tensors end in that have one row a label: of a state, and of all that is kept beside it by its names."""


def grown(state: State, *, like: State) -> dict[str, Tensor]:
    """``state`` with as many rows a label as ``like`` has: its own, bit for bit, then those of ``like`` below them.

    ``head.weight`` is ``[labels, width]``, ``head.bias`` ``[labels]``. All other tensors, and tensors that ``like`` does not
    have or that are no shorter than there, stay as they are.
    """
    return {name: _grown(name, tensor, like.get(name)) for name, tensor in state.items()}


def grown_with_zeros(kept: State, *, like: State) -> dict[str, Tensor]:
    """What is kept beside a state by its names, as in ``momentum/head.bias``, with rows of zeros for the labels it lacks.

    Zeros are what momentum, second moments, control variates and sums of updates begin with.
    """
    zeros = {name: torch.zeros_like(value) for name, value in like.items() if name.endswith(BY_LABEL)}
    found = {kept_as: next((name for name in zeros if f"/{kept_as}".endswith(f"/{name}")), kept_as) for kept_as in kept}
    return {kept_as: _grown(name, kept[kept_as], zeros.get(name)) for kept_as, name in found.items()}


def _grown(name: str, tensor: Tensor, like: Tensor | None) -> Tensor:
    if like is None or not name.endswith(BY_LABEL) or tensor.shape[1:] != like.shape[1:] or not tensor.dim():
        return tensor
    return torch.cat([tensor, like[len(tensor) :].to(tensor.dtype)]) if len(tensor) < len(like) else tensor
