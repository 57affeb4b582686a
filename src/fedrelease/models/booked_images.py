"""The layers of networks on images, booked as :mod:`fedrelease.models.booked_layers` books those on texts.

A convolution is a matrix product for each place of the image, so that what is said there of tokens holds of places: Bu et al.
(2022), https://arxiv.org/abs/2205.10683, section 3.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from fedrelease.models.booked_layers import Found, Kind, Note, Pair, normal_squares, normal_sums, product_squares

__all__ = ["CONVOLUTION", "GROUP_NORM"]


class _Convolution(Function):
    """A convolution whose channels are all seen by all filters, over an image with zeros around it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d, note: Note) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layer, ctx.note = layer, note
        return functional.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        (back,) = given
        x, weight = ctx.saved_tensors
        layer = ctx.layer
        pieces = functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        ctx.note(pieces.transpose(1, 2), back.flatten(2).transpose(1, 2))
        onward = None
        if ctx.needs_input_grad[0]:
            facts = (layer.stride, layer.padding, layer.dilation, False, (0, 0), 1)
            wanted = [True, False, False]
            onward = torch.ops.aten.convolution_backward(back, x, weight, None, *facts, wanted)[0]
        return onward, None, None, None, None


class _GroupNorm(Function):
    """Normalisation over groups of channels; its gradients by example are one number a channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, layer: nn.GroupNorm, note: Note) -> Tensor:
        rows, channels, places = x.shape[0], x.shape[1], x[0, 0].numel()
        facts = (rows, channels, places, layer.num_groups)
        found, mean, scale = torch.native_group_norm(x.contiguous(), weight, bias, *facts, layer.eps)
        ctx.save_for_backward(x.contiguous(), mean, scale, weight)
        ctx.facts, ctx.note = facts, note
        return found

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        back = given[0].contiguous()
        x, mean, scale, weight = ctx.saved_tensors
        rows, channels, places, groups = ctx.facts
        grouped = x.view(rows, groups, -1)
        normal = ((grouped - mean[..., None]) * scale[..., None]).view(rows, channels, places)
        flat = back.view(rows, channels, places)
        ctx.note((normal * flat).sum(2)[:, None], flat.sum(2)[:, None])
        wanted = [ctx.needs_input_grad[0], False, False]
        onward = torch.ops.aten.native_group_norm_backward(back, x, mean, scale, weight, *ctx.facts, wanted)[0]
        return onward, None, None, None, None


def _apply(function: type[Function], *given: object) -> Tensor:
    out: Tensor = function.apply(*given)  # type: ignore[no-untyped-call]  # torch says nothing of its type
    return out


def _convolve(layer: nn.Conv2d, note: Note, x: Tensor) -> Tensor:
    return _apply(_Convolution, x, layer.weight, layer.bias, layer, note)


def _normalise(layer: nn.GroupNorm, note: Note, x: Tensor) -> Tensor:
    return _apply(_GroupNorm, x, layer.weight, layer.bias, layer, note)


def _sums(layer: nn.Conv2d, pair: Pair, scaled: Callable[[Tensor], Tensor]) -> Found:
    back, given = scaled(pair.back).flatten(0, 1), pair.given.flatten(0, 1)
    found: Found = {layer.weight: (back.T @ given).view_as(layer.weight)}
    if layer.bias is not None:
        found[layer.bias] = back.sum(0)
    return found


CONVOLUTION = Kind(forward=_convolve, squares=product_squares, sums=_sums)
GROUP_NORM = Kind(forward=_normalise, squares=normal_squares, sums=normal_sums)
