"""Layers whose gradients by example are never formed: what backward keeps of them, and what lengths and sums follow from it.

Example::

    kind = PRODUCT
    kind.squares(layer, pair, gram)          # {weight: float32 [examples], bias: float32 [examples]}
    kind.sums(layer, pair, scaled)           # {weight: float32 of its shape, bias: ...}

The gradient of a matrix product for one example is ``back^T given``, a sum over its tokens, so that its squared length is the
inner product of two matrices of tokens by tokens. Source: Li et al. (2022), https://arxiv.org/abs/2110.05679, section 4; for
forming it where that is smaller, Bu et al. (2022), https://arxiv.org/abs/2205.10683.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

__all__ = [
    "EMBEDDING",
    "LAYER_NORM",
    "PRODUCT",
    "Found",
    "Kind",
    "Note",
    "Pair",
    "gram",
    "normal_squares",
    "normal_sums",
    "over_tokens",
    "product_squares",
]

CANCELLED = 1e-3
"""Share of what a squared length could be. Below it tokens cancel so far that rounding would show: the gradient is formed."""

Note: TypeAlias = Callable[[Tensor, Tensor], None]
Found: TypeAlias = dict[Tensor, Tensor]
"""By parameter."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What one layer's gradients are made of, ``[examples, tokens, ...]`` each, float32.

    Attributes:
        given: what came in; ids ``[examples, tokens]`` of an embedding; of a LayerNorm the weight's gradients.
        back: the loss' gradient for what went out; of a LayerNorm the bias' gradients.
    """

    given: Tensor
    back: Tensor


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How one kind of layer is computed and booked.

    Attributes:
        forward: what the layer gives; backward hands (given, back) to the ``Note``.
        squares: by parameter, each example's squared length of gradient, ``[examples]``. Takes a function for Gram matrices.
        sums: by parameter, the sum over examples whose ``back`` was scaled (of a LayerNorm: and whose ``given`` was).
    """

    forward: Callable[[Any, Note, Tensor], Tensor]
    squares: Callable[[Any, Pair, Callable[[Tensor], Tensor]], Found]
    sums: Callable[[Any, Pair, Callable[[Tensor], Tensor]], Found]


def gram(rows: Tensor) -> Tensor:
    """Inner products of all tokens of an example, ``[examples, tokens, tokens]`` of ``[examples, tokens, width]``."""
    return torch.bmm(rows, rows.transpose(1, 2))


class _Product(Function):
    """``x W^T + b``, or ``x W + b`` where the weight is the other way round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, turned: bool, note: Note) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.turned, ctx.note = turned, note
        return functional.linear(x, weight.T if turned else weight, bias)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        (back,) = given
        x, weight = ctx.saved_tensors
        ctx.note(x, back)
        onward = back @ (weight.T if ctx.turned else weight) if ctx.needs_input_grad[0] else None
        return onward, None, None, None, None


class _Normal(Function):
    """A LayerNorm over the last dimension; its gradients by example are as small as what it gives for one token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float, note: Note) -> Tensor:
        found, mean, scale = torch.native_layer_norm(x, weight.shape, weight, bias, epsilon)
        ctx.save_for_backward(x, mean, scale, weight)
        ctx.note = note
        return found

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        (back,) = given
        x, mean, scale, weight = ctx.saved_tensors
        ctx.note(over_tokens((x - mean).mul_(scale).mul_(back)), over_tokens(back))
        wanted = [ctx.needs_input_grad[0], False, False]
        onward = torch.ops.aten.native_layer_norm_backward(
            back, x, list(weight.shape), mean, scale, weight, None, wanted
        )[0]
        return onward, None, None, None, None


class _Lookup(Function):
    """An embedding."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, note: Note) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.note = note
        return functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        ctx.note(ctx.saved_tensors[0], given[0])
        return None, None, None


def _apply(function: type[Function], *given: object) -> Tensor:
    out: Tensor = function.apply(*given)  # type: ignore[no-untyped-call]  # torch says nothing of its type
    return out


def over_tokens(value: Tensor) -> Tensor:
    """Sums over all but an example's last dimension, ``[examples, 1, width]``."""
    return value.flatten(1, -2).sum(1, keepdim=True) if value.dim() > 2 else value[:, None]


def _product(layer: nn.Linear, note: Note, x: Tensor) -> Tensor:
    return _apply(_Product, x, layer.weight, layer.bias, type(layer) is Conv1D, note)


def _normal(layer: nn.LayerNorm, note: Note, x: Tensor) -> Tensor:
    return _apply(_Normal, x, layer.weight, layer.bias, layer.eps, note)


def _lookup(layer: nn.Embedding, note: Note, ids: Tensor) -> Tensor:
    return _apply(_Lookup, ids, layer.weight, note)


def product_squares(layer: nn.Linear | nn.Conv2d, pair: Pair, gram_of: Callable[[Tensor], Tensor]) -> Found:
    """Of a matrix product for each token, or for each place of an image."""
    found: Found = {layer.weight: _inner(pair, gram_of)}
    if layer.bias is not None:
        found[layer.bias] = pair.back.sum(1).square().sum(-1)
    return found


def _inner(pair: Pair, gram_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Squared lengths of ``back^T given``, by whichever is smaller: two matrices of tokens by tokens, or the gradient."""
    given, back = pair.given, pair.back
    if 2 * given.shape[1] ** 2 > given.shape[2] * back.shape[2]:
        return torch.bmm(back.transpose(1, 2), given).square_().sum((1, 2))
    left, right = gram_of(given), gram(back)
    most = (left.diagonal(dim1=1, dim2=2) * right.diagonal(dim1=1, dim2=2)).sqrt().sum(1).square()
    found = (left * right).sum((1, 2))
    for row in (~(found >= CANCELLED * most)).nonzero().flatten().tolist():
        found[row] = (back[row].T @ given[row]).square().sum()
    return found


def _product_sums(layer: nn.Linear, pair: Pair, scaled: Callable[[Tensor], Tensor]) -> Found:
    back, given = scaled(pair.back).flatten(0, 1), pair.given.flatten(0, 1)
    found: Found = {layer.weight: given.T @ back if type(layer) is Conv1D else back.T @ given}
    if layer.bias is not None:
        found[layer.bias] = back.sum(0)
    return found


def normal_squares(layer: nn.LayerNorm | nn.GroupNorm, pair: Pair, _: Callable[[Tensor], Tensor]) -> Found:
    """Of a normalisation with a weight and a bias a channel."""
    found: Found = {layer.weight: pair.given.sum(1).square().sum(-1)}
    if layer.bias is not None:
        found[layer.bias] = pair.back.sum(1).square().sum(-1)
    return found


def normal_sums(layer: nn.LayerNorm | nn.GroupNorm, pair: Pair, scaled: Callable[[Tensor], Tensor]) -> Found:
    """The same, scaled and added up."""
    found: Found = {layer.weight: scaled(pair.given).sum((0, 1))}
    if layer.bias is not None:
        found[layer.bias] = scaled(pair.back).sum((0, 1))
    return found


def _lookup_squares(layer: nn.Embedding, pair: Pair, _: Callable[[Tensor], Tensor]) -> Found:
    """Tokens of one example that are equal share a row of its gradient; only these rows are formed."""
    ids, back = pair.given, _but_padding(layer, pair)
    places = ids + layer.num_embeddings * torch.arange(len(ids))[:, None]
    rows, where = torch.unique(places, return_inverse=True)
    summed = back.new_zeros(len(rows), back.shape[-1]).index_add_(0, where.flatten(), back.flatten(0, 1))
    squares = back.new_zeros(len(ids)).index_add_(0, rows // layer.num_embeddings, summed.square_().sum(-1))
    return {layer.weight: squares}


def _lookup_sums(layer: nn.Embedding, pair: Pair, scaled: Callable[[Tensor], Tensor]) -> Found:
    back = scaled(_but_padding(layer, pair)).flatten(0, 1)
    return {layer.weight: torch.zeros_like(layer.weight).index_add_(0, pair.given.flatten(), back)}


def _but_padding(layer: nn.Embedding, pair: Pair) -> Tensor:
    """Torch, too, gives the row that pads no gradient."""
    if layer.padding_idx is None:
        return pair.back
    return pair.back.masked_fill((pair.given == layer.padding_idx)[..., None], 0.0)


EMBEDDING = Kind(forward=_lookup, squares=_lookup_squares, sums=_lookup_sums)
LAYER_NORM = Kind(forward=_normal, squares=normal_squares, sums=normal_sums)
PRODUCT = Kind(forward=_product, squares=product_squares, sums=_product_sums)
