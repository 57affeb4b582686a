"""Layers that tell each example's gradient apart in one ordinary backward pass, or its sum when nobody asks.

Example::

    with per_example(model):
        loss.backward()                                  # the sum of the examples' losses
        model.head.weight.grad_sample                    # float32 [examples, *shape], as Opacus' optimizer reads it

A LoRA factor's gradient is small, so that forming it for every example costs next to nothing: the product over tokens that sums
all examples is done example by example instead. Source: Li et al. (2022), https://arxiv.org/abs/2110.05679, section 4, of which
this is the plain case: gradients are formed, not only their norms.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from fedrelease.errors import ModelError
from fedrelease.models.vocabulary import PlainVocabularyHead, VocabularyHead

__all__ = [
    "OTHERWISE",
    "PLAIN",
    "SMALL",
    "CoreLinear",
    "Head",
    "LearnedVectors",
    "LoraLinear",
    "forget_gradients",
    "per_example",
    "plain_layers",
]

ADAPTER = "default"
"""PEFT's name of the only adapter there is."""
OTHERWISE = 'name other [model.adapter] targets, or train without privacy ([privacy] unit = "none")'


class LoraLinear(PeftLinear):  # type: ignore[misc]  # peft ships no types
    """PEFT's LoRA layer with a forward and a backward of its own: the same products, in the precision of what comes in.

    Attributes:
        residual: what is added to ``B A``, ``[out, in]``, float32; never trained. Left out by the experiment: ``None``.
        own_A, own_B: a second pair of factors, ``[own rank, in]`` and ``[out, own rank]``, float32; ``None`` likewise.
    """

    record = False
    residual: nn.Parameter | None
    own_A: nn.Parameter | None
    own_B: nn.Parameter | None

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        """``base(x) + scaling * x (B A + own_B own_A + residual)^T``, ``[examples, tokens, out]`` of ``[.., .., in]``."""
        if self.record and x.dim() != 3:
            raise ModelError(
                "a layer sees no examples",
                value=tuple(x.shape),
                rule="a layer with factors is given [examples, tokens, width]",
                hint=OTHERWISE,
            )
        first, second = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        whole = _with_residual(self, self.base_layer(x), x)
        given = self.lora_dropout[ADAPTER](x)  # the identity, but where training drops some of it
        shared = _apply(_LowRank, whole, given, first, second, self.scaling[ADAPTER], self.record)
        if self.own_A is None:
            return shared
        return _apply(_LowRank, shared, given, self.own_A, self.own_B, self.scaling[ADAPTER], self.record)


class _PlainLora(PeftLinear):  # type: ignore[misc]  # peft ships no types
    """PEFT's own layer, and autograd's own gradients, plus the residual and the own pair that PEFT does not know."""

    residual: nn.Parameter | None
    own_A: nn.Parameter | None
    own_B: nn.Parameter | None

    def forward(self, x: Tensor, *given: object, **named: object) -> Tensor:
        """As :class:`LoraLinear`."""
        shared = _with_residual(self, PeftLinear.forward(self, x, *given, **named), x)
        if self.own_A is None or self.own_B is None:
            return shared
        whole = self.own_B @ self.own_A * self.scaling[ADAPTER]
        return shared + functional.linear(self.lora_dropout[ADAPTER](x), whole.to(x.dtype))


def _with_residual(layer: LoraLinear | _PlainLora, out: Tensor, x: Tensor) -> Tensor:
    """Plain autograd suffices: no gradient of a residual is ever wanted, by example or in sum."""
    if layer.residual is None:
        return out
    scaling: float = layer.scaling[ADAPTER]
    return out + functional.linear(x, layer.residual.to(x.dtype)) * scaling


class CoreLinear(nn.Module):
    """A frozen layer with a trained core between frozen bases: ``base(x) + scaling * x (B R A)^T``.

    Attributes:
        lora_R: the core, ``[rank, rank]``, float32; zero at the start.
        first, second: A ``[rank, in]`` and B ``[out, rank]``, float32; no part of any state.
    """

    record = False
    first: Tensor
    second: Tensor

    def __init__(self, base_layer: nn.Module, first: Tensor, second: Tensor, *, scaling: float) -> None:
        """Put a core of zeros on ``base_layer``."""
        super().__init__()
        self.base_layer = base_layer
        self.scaling = scaling
        self.dropout = nn.Identity()
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.lora_R = nn.Parameter(torch.zeros(len(first), len(first)))

    def forward(self, x: Tensor) -> Tensor:
        """``[examples, tokens, out]`` for ``[examples, tokens, in]``; products are done in the precision of ``x``."""
        if self.record and x.dim() != 3:
            raise ModelError(
                "a layer sees no examples",
                value=tuple(x.shape),
                rule="a layer with a core is given [examples, tokens, width]",
                hint=OTHERWISE,
            )
        low = functional.linear(self.dropout(x), self.first.to(x.dtype))
        out: Tensor = self.base_layer(x)
        turned = _apply(_Core, low, self.lora_R, self.record)
        return out + functional.linear(turned, self.second.to(x.dtype)) * self.scaling


class _PlainCore(nn.Module):
    """The same in one product of dense matrices, with autograd's own gradients."""

    base_layer: nn.Module
    first: Tensor
    second: Tensor
    lora_R: nn.Parameter
    dropout: nn.Module
    scaling: float

    def forward(self, x: Tensor) -> Tensor:
        """As :class:`CoreLinear`."""
        whole = self.second @ self.lora_R @ self.first * self.scaling
        out: Tensor = self.base_layer(x)
        return out + functional.linear(self.dropout(x), whole.to(x.dtype))


class Head(nn.Linear):
    """A linear layer on one vector an example, or on one a token, float32: the task's, or one of a small network."""

    record = False
    halves: tuple[Tensor, Tensor] | None = None
    """With stacked weights, after backward: what came in, and the loss' gradient for what went out."""

    def forward(self, input: Tensor) -> Tensor:
        """``[examples, out]`` of ``[examples, in]``, or both with tokens between; stacked ``[sites, examples, out]``."""
        if self.weight.dim() == 3:
            return _apply(_StackedAffine, input, self.weight, self.bias, self)
        return _apply(_Affine, input, self.weight, self.bias, self.record)


class LearnedVectors(nn.Module):
    """Vectors that are the same for every example, ``[tokens, width]``, float32: what stands before a text."""

    record = False

    def __init__(self, tokens: int, width: int) -> None:
        """All zero until they are drawn."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(tokens, width))

    def forward(self, examples: int) -> Tensor:
        """A copy for each, ``[examples, tokens, width]``."""
        return _apply(_Copied, self.weight, examples, self.record)


class _PlainVectors(nn.Module):
    """The same with autograd's own gradients."""

    weight: nn.Parameter

    def forward(self, examples: int) -> Tensor:
        """As :class:`LearnedVectors`."""
        return self.weight.expand(examples, *self.weight.shape)


SMALL = (CoreLinear, Head, LearnedVectors, LoraLinear)
"""Layers whose gradients by example are small enough to be formed."""


def _apply(function: type[Function], *given: object) -> Tensor:
    out: Tensor = function.apply(*given)  # type: ignore[no-untyped-call]  # torch says nothing of its type
    return out


@contextmanager
def per_example(model: nn.Module) -> Iterator[None]:
    """Within it, backward leaves ``grad_sample`` on every trained parameter, and no ``grad``; afterwards nothing is left.

    Raises:
        ModelError: a trained parameter is in no layer that can do so.
    """
    layers = [module for module in model.modules() if isinstance(module, SMALL)]
    _check_covered(model, layers)
    try:
        for layer in layers:
            layer.record = True
        yield
    finally:
        for layer in layers:
            layer.record = False
        forget_gradients(model)


def forget_gradients(model: nn.Module) -> None:
    """Leave nothing of a step, also when it broke off half-way: the model is resident, and trains again."""
    for parameter in model.parameters():
        parameter.grad = None
        for name in {"grad_sample", "summed_grad"} & vars(parameter).keys():
            delattr(parameter, name)


@contextmanager
def plain_layers(model: nn.Module) -> Iterator[None]:
    """Within it, the same numbers go through PEFT's and torch's own layers: what ours is checked against."""
    own: list[Any] = [module for module in model.modules() if isinstance(module, tuple(PLAIN))]
    kinds = [type(module) for module in own]
    try:
        for module in own:
            module.__class__ = PLAIN[type(module)]
        yield
    finally:
        for module, kind in zip(own, kinds, strict=True):
            module.__class__ = kind


PLAIN: Mapping[type[nn.Module], type[nn.Module]] = {
    LoraLinear: _PlainLora,
    CoreLinear: _PlainCore,
    Head: nn.Linear,
    LearnedVectors: _PlainVectors,
    VocabularyHead: PlainVocabularyHead,
}
"""Each layer of ours, and what does the same without any gradients of ours."""


def _check_covered(model: nn.Module, layers: list[CoreLinear | Head | LearnedVectors | LoraLinear]) -> None:
    covered = {id(parameter) for layer in layers for parameter in layer.parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in covered:
            raise ModelError(
                "a trained parameter has no gradient by example",
                value=name,
                rule="what is trained privately is a LoRA factor or core, a learned vector, a bottleneck, or the head",
                hint='train without privacy ([privacy] unit = "none"), or choose another adapter',
            )


def _note(parameter: nn.Parameter, gradients: Tensor) -> None:
    """Add float32 gradients ``[examples, *shape]``: a layer that is used twice gives the sum of both."""
    before: Tensor | None = getattr(parameter, "grad_sample", None)
    gradients = gradients.float()
    parameter.grad_sample = gradients if before is None else before + gradients  # type: ignore[attr-defined]  # Opacus' name


class _LowRank(Function):
    """The factors' part of a LoRA layer; parameters stay float32, products are done in the precision of ``x``."""

    @staticmethod
    def forward(
        ctx: Any, base: Tensor, x: Tensor, first: nn.Parameter, second: nn.Parameter, scaling: float, record: bool
    ) -> Tensor:
        a, b = first.to(x.dtype), second.to(x.dtype)
        low = functional.linear(x, a)
        ctx.save_for_backward(x, low, a, b)
        ctx.parameters, ctx.scaling, ctx.record = (first, second), scaling, record
        return torch.addmm(base.flatten(0, -2), low.flatten(0, -2), b.T, alpha=scaling).view_as(base)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        (out,) = given
        x, low, a, b = ctx.saved_tensors
        back = (out @ b) * ctx.scaling
        pairs = ((back, x, 1.0, ctx.needs_input_grad[2]), (out, low, ctx.scaling, ctx.needs_input_grad[3]))
        sums: list[Tensor | None] = []
        for parameter, (left, right, scale, wanted) in zip(ctx.parameters, pairs, strict=True):
            if wanted and ctx.record:
                _note(parameter, torch.bmm(left.transpose(1, 2), right) * scale)
            sums.append(
                (left.flatten(0, -2).T @ right.flatten(0, -2)).float() * scale if wanted and not ctx.record else None
            )
        return out, back @ a if ctx.needs_input_grad[1] else None, *sums, None, None


class _Core(Function):
    """``low R^T``: between two products with frozen bases, the one in which something is trained."""

    @staticmethod
    def forward(ctx: Any, low: Tensor, core: nn.Parameter, record: bool) -> Tensor:
        r = core.to(low.dtype)
        ctx.save_for_backward(low, r)
        ctx.core, ctx.record = core, record
        return functional.linear(low, r)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        (out,) = given
        low, r = ctx.saved_tensors
        back = out @ r if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return back, None, None
        if ctx.record:
            _note(ctx.core, torch.bmm(out.transpose(1, 2), low))
            return back, None, None
        return back, (out.flatten(0, -2).T @ low.flatten(0, -2)).float(), None


class _Copied(Function):
    """One copy of a parameter for each example, so that what comes back for each is its gradient."""

    @staticmethod
    def forward(ctx: Any, weight: nn.Parameter, examples: int, record: bool) -> Tensor:
        ctx.weight, ctx.record = weight, record
        return weight.expand(examples, *weight.shape).clone()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        (out,) = given
        if not ctx.record:
            return out.sum(0), None, None
        _note(ctx.weight, out)
        return None, None, None


class _Affine(Function):
    """A linear layer on vectors of examples, or of their tokens."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: nn.Parameter, bias: nn.Parameter, record: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.parameters, ctx.record = (weight, bias), record
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        (out,) = given
        x, weight = ctx.saved_tensors
        back = out @ weight if ctx.needs_input_grad[0] else None
        if not ctx.record:
            return back, out.flatten(0, -2).T @ x.flatten(0, -2), out.flatten(0, -2).sum(0), None
        parts = (
            (torch.bmm(out.transpose(1, 2), x), out.sum(1)) if x.dim() == 3 else (out[:, :, None] * x[:, None, :], out)
        )
        for parameter, gradients in zip(ctx.parameters, parts, strict=True):
            _note(parameter, gradients)
        return back, None, None, None


class _StackedAffine(Function):
    """A linear layer whose weights every site has a copy of; backward forms no gradient of them, but keeps its two halves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: nn.Parameter, bias: nn.Parameter, layer: Head) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layer = layer
        return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        (out,) = given
        x, weight = ctx.saved_tensors
        ctx.layer.halves = (x.detach(), out.detach())  # kept longer than the graph, which holds this layer
        return out @ weight if ctx.needs_input_grad[0] else None, None, None, None
