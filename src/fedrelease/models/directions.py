"""The leading singular directions of a frozen weight: what everybody who has the base works out alike, and nobody sends.

Example::

    first, second = directions(layer.weight, 32)         # A [32, in] and B [out, 32]; rows and columns of length 1
"""

import torch
from torch import Tensor

from fedrelease.errors import ModelError

__all__ = ["directions"]

APART = 1e-9
"""Of the largest singular value: values nearer to each other share their directions, and which comes first is rounding."""


@torch.no_grad()
def directions(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A ``[rank, in]`` and B ``[out, rank]``, float32, of a weight ``[out, in]``: right and left singular vectors, largest first.

    Guarantees: they follow from the weight alone, up to rounding of float64, on any machine: the signs are those with which the
    largest entry of each row of A is positive, and a weight whose directions are not unique is refused.

    Raises:
        ModelError: there are fewer directions than ``rank``, or two of them cannot be told apart.

    Source: Balazy et al. (2024), https://arxiv.org/abs/2405.17604, section 3, without the singular values in B: a step of R then
    moves the weight by its own length in every direction, and so does noise.
    """
    if rank > min(weight.shape):
        raise ModelError(
            "a layer's weight has fewer singular directions than the adapter's rank",
            value=rank,
            rule=f"with model.adapter.kind = lora-sb model.adapter.rank is at most {min(weight.shape)} on this base",
            hint=f"set [model.adapter] rank = {min(weight.shape)}",
        )
    u, values, v = torch.linalg.svd(weight.double(), full_matrices=False)
    _check_apart(values, rank)
    first, second = v[:rank], u[:, :rank]
    signs = torch.where(first.gather(1, first.abs().argmax(1, keepdim=True)) < 0, -1.0, 1.0)
    return (first * signs).float().contiguous(), (second * signs.T).float().contiguous()


def _check_apart(values: Tensor, rank: int) -> None:
    """Each of the leading values against the next one; behind the last of all, against 0."""
    behind = torch.cat([values[1:], values.new_zeros(1)])
    if bool((values - behind <= APART * values[0])[:rank].any()):
        raise ModelError(
            "a layer's weight does not say which its leading directions are",
            value=f"rank {rank}",
            rule="with model.adapter.kind = lora-sb the leading singular values differ: all sites find the same directions",
            hint='set [model.adapter] kind = "lora", a lower rank, or other targets',
        )
