"""Many sites in one computation: each site has its own copy of the weights, and one product a layer serves all of them.

Example::

    with stacked(model, sites=32):                                # every trained parameter is [32, *shape] now
        logits = model(features)                                  # [32, rows, labels] of [32, rows, width]
        parts = noted(model, loss)                                # backward; no gradient is formed yet
        lengths = gradient_lengths(parts)                         # [32, rows]: of each example's whole gradient
        form_sums(parts, scales)                                  # parameter.grad: the scaled sum over each site's rows

The gradient of a linear layer for one example is an outer product, so that its length is the product of two lengths and the sum
of scaled gradients is one matrix product: no example's gradient is ever formed. Source: Goodfellow (2015),
https://arxiv.org/abs/1510.01799; and, for keeping what one backward pass has computed, Bu et al. (2023),
https://arxiv.org/abs/2210.00038, section 3.2.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedrelease.models.network import Network
from fedrelease.models.per_example import Head

__all__ = ["Part", "form_sums", "gradient_lengths", "noted", "stacked"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one layer's gradients are made of: ``given`` [sites, rows, in], ``back`` [sites, rows, out], float32."""

    layer: Head
    given: Tensor
    back: Tensor


def _layers(model: Network) -> list[Head]:
    return [module for module in model.modules() if isinstance(module, Head)]


@contextmanager
def stacked(model: Network, sites: int) -> Iterator[None]:
    """Within it each parameter is another one, ``[sites, *shape]``: every site's copy. Afterwards all are what they were."""
    layers = _layers(model)
    before = [(layer.weight, layer.bias) for layer in layers]
    try:
        for layer in layers:
            layer.weight, layer.bias = _copies(layer.weight, sites), _copies(layer.bias, sites)
        yield
    finally:
        for layer, (weight, bias) in zip(layers, before, strict=True):
            layer.weight, layer.bias, layer.halves = weight, bias, None


def _copies(value: Tensor, sites: int) -> nn.Parameter:
    return nn.Parameter(value.detach().expand(sites, *value.shape).clone())


def noted(model: Network, loss: Tensor) -> list[Part]:
    """Go back through ``loss`` (a sum over examples) and return what its gradients are made of, layer by layer."""
    torch.autograd.backward(loss)
    return [Part(layer=layer, given=layer.halves[0], back=layer.halves[1]) for layer in _layers(model) if layer.halves]


def gradient_lengths(parts: Sequence[Part]) -> Tensor:
    """The L2 length of each example's gradient over all layers, float32 ``[sites, rows]``; may be infinite or NaN."""
    squares = [(part.given.square().sum(-1) + 1) * part.back.square().sum(-1) for part in parts]  # + 1: of the bias
    return torch.stack(squares).sum(0).sqrt()


def form_sums(parts: Sequence[Part], scales: Tensor) -> None:
    """Add to each parameter's ``grad`` the sum of its examples' gradients, times ``scales`` ``[sites, rows]``.

    An example whose scale is 0 adds nothing, whatever its gradient is.
    """
    left_out = (scales == 0)[..., None]
    for part in parts:
        back = (part.back * scales[..., None]).masked_fill_(left_out, 0.0)
        given = part.given.masked_fill(left_out, 0.0)
        _add(part.layer.weight, back.transpose(1, 2) @ given)
        _add(part.layer.bias, back.sum(1))


def _add(parameter: Tensor, sums: Tensor) -> None:
    parameter.grad = sums if parameter.grad is None else parameter.grad + sums
