"""Bottlenecks: a small network of two layers after each chosen layer of a frozen base.

Example::

    put_bottlenecks(encoder, Adapter(kind="bottleneck", rank=8, layers="last:2"))   # encoder.layer.5.bottleneck.down.weight
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from fedrelease.adapter import Adapter
from fedrelease.errors import ModelError
from fedrelease.models.encoders import setting
from fedrelease.models.layers import chosen_layers, layer_list
from fedrelease.models.per_example import Head

__all__ = ["Bottleneck", "put_bottlenecks"]


class Bottleneck(nn.Module):
    """``h + up(relu(down(h)))``, computed in float32 and given back in the precision of what came in.

    Source: Pfeiffer et al. (2020), https://arxiv.org/abs/2005.00247, section 3.2.3; Houlsby et al. (2019),
    https://arxiv.org/abs/1902.00751, put two into each layer.
    """

    def __init__(self, width: int, rank: int) -> None:
        """``down`` is ``[rank, width]``, ``up`` ``[width, rank]``; all zero until they are drawn."""
        super().__init__()
        self.down: nn.Linear = Head(width, rank)
        self.up: nn.Linear = Head(rank, width)

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Put it where training starts: ``down`` drawn as LoRA's A is, all else zero, so that nothing is added."""
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5), generator=generator)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[examples, tokens, width]`` for the same."""
        added: Tensor = self.up(torch.relu(self.down(hidden.float())))
        return hidden + added.to(hidden.dtype)


def put_bottlenecks(encoder: nn.Module, adapter: Adapter) -> None:
    """One after each chosen layer.

    Raises:
        ModelError: the base has fewer layers, or does not keep them in one list.
    """
    layers = layer_list(encoder)
    chosen = chosen_layers(encoder, adapter.layers) or range(len(layers))
    if not layers:
        raise ModelError(
            "the base does not keep its layers in one list",
            value=type(encoder).__name__,
            rule="a bottleneck comes after each layer of a transformer",
            hint='set [model.adapter] kind = "lora" with targets = "all-linear"',
        )
    for place in chosen:
        layers[place].add_module("bottleneck", Bottleneck(setting(encoder, "hidden_size"), adapter.rank))
        layers[place].register_forward_hook(_after)


def _after(layer: nn.Module, _: object, out: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    bottleneck = cast(Bottleneck, layer.bottleneck)
    return (bottleneck(out[0]), *out[1:]) if isinstance(out, tuple) else cast(Tensor, bottleneck(out))
