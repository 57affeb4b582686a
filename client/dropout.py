"""Dropout while a site trains: some of what trained layers are given is set to 0, drawn for each row by itself.

Example::

    with dropping(model, 0.1) as masks:
        masks.draws = draws                  # of the rows that come next
        loss = summed_loss(model, rows, indices)

Dropped is what LoRA's factors and cores are given, as PEFT's ``lora_dropout`` does; what the head is given; between the layers of
a small network; and, where every weight is trained, wherever the base itself has a dropout layer. Attention's weights, and all
layers that stay frozen, are left alone: what those give for a row never changes, and may be kept on the disk.

Source: Srivastava et al. (2014), https://jmlr.org/papers/v15/srivastava14a.html, section 4; scaled while training.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from fedrelease.client.draws import Draws
from fedrelease.errors import ModelError
from fedrelease.models.bookkeeping import keeps_books
from fedrelease.models.network import Network
from fedrelease.models.per_example import ADAPTER, CoreLinear, Head, LoraLinear

__all__ = ["Masks", "dropping"]


class Masks:
    """What is dropped in the rows of one step. ``draws`` is set before they go through the model."""

    def __init__(self, rate: float) -> None:
        """Drop this share."""
        self._rate = rate
        self.draws: Draws | None = None

    def __call__(self, place: str, x: Tensor) -> Tensor:
        """``[rows, ...]`` with zeros in it, the rest scaled so that the mean stays; as it is where nothing is drawn."""
        if self.draws is None:
            return x
        stays = self.draws.uniform(f"dropout {place}", x.shape[1:]) >= self._rate
        return x * (stays / (1 - self._rate)).to(x.dtype)


@contextmanager
def dropping(model: nn.Module, rate: float) -> Iterator[Masks]:
    """Within it a model that is in training drops this share; in evaluation it drops nothing.

    Raises:
        ModelError: it has no place for dropout.
    """
    masks = Masks(rate)
    handles = [_put(place, module, masks) for place, module in _places(model)] if rate else []
    if rate and not handles:
        raise ModelError(
            "the model has no place for dropout",
            value=type(model).__name__,
            rule="dropout is put before LoRA factors and heads that are trained, and where a base has a dropout layer",
            hint="leave training.dropout out",
        )
    try:
        yield masks
    finally:
        for handle in handles:
            handle.remove()


def _places(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    every = keeps_books(model)
    first = [*model.hidden, model.head][0] if isinstance(model, Network) else None  # what it is given are the pixels
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module.lora_dropout[ADAPTER]
        elif isinstance(module, CoreLinear):
            yield name, module.dropout
        elif (isinstance(module, Head) and module is not first) or (isinstance(module, nn.Dropout) and every):
            yield name, module


def _put(place: str, module: nn.Module, masks: Masks) -> torch.utils.hooks.RemovableHandle:
    if isinstance(module, Head):
        return module.register_forward_pre_hook(partial(_before, place, masks))
    return module.register_forward_hook(partial(_after, place, masks))


def _before(place: str, masks: Masks, module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    return (masks(place, given[0]), *given[1:]) if module.training else None


def _after(place: str, masks: Masks, module: nn.Module, _: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
    return masks(place, out) if module.training else None
