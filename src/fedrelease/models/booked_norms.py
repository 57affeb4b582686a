"""Root-mean-square normalisations of Llama and T5, booked as :mod:`fedrelease.models.booked_layers` books a LayerNorm.

Its gradient by example is one number a channel: what came in, normalised, times the gradient for what went out.
Source: Zhang and Sennrich (2019), https://arxiv.org/abs/1910.07467, equation 4.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from fedrelease.models.booked_layers import Found, Kind, Note, Pair, over_tokens

__all__ = ["ROOT_NORM"]


class _Root(Function):
    """``weight * x / sqrt(mean(x^2) + epsilon)`` over the last dimension, float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, note: Note) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
        normal = x * scale
        ctx.save_for_backward(normal, scale, weight)
        ctx.note = note
        return weight * normal

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        (back,) = given
        normal, scale, weight = ctx.saved_tensors
        summed = over_tokens(normal * back)
        ctx.note(summed, summed)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        inner = back * weight
        return scale * (inner - normal * (inner * normal).mean(-1, keepdim=True)), None, None, None


def _root(layer: nn.Module, note: Note, x: Tensor) -> Tensor:
    found: Tensor = _Root.apply(x, layer.weight, layer.variance_epsilon, note)  # type: ignore[no-untyped-call]
    return found


def _squares(layer: nn.Module, pair: Pair, _: Callable[[Tensor], Tensor]) -> Found:
    return {layer.get_parameter("weight"): pair.given.sum(1).square().sum(-1)}


def _sums(layer: nn.Module, pair: Pair, scaled: Callable[[Tensor], Tensor]) -> Found:
    return {layer.get_parameter("weight"): scaled(pair.given).sum((0, 1))}


ROOT_NORM = Kind(forward=_root, squares=_squares, sums=_sums)
