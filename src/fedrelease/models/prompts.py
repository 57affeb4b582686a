"""Learned vectors before a text: at the entrance of the base alone (a prompt), or anew at that of each layer (a prefix).

Example::

    prompt = make_prompt(encoder, Adapter(kind="prefix", tokens=16))
    out = prompted(encoder, prompt, input_ids, attention_mask)
    out.last_hidden_state[:, prompt.tokens:]                 # what the base says of the text, [rows, tokens, width]

The text's own tokens see these vectors as they see each other; what the base says of the vectors themselves is cut off.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedrelease.adapter import Adapter
from fedrelease.errors import ModelError
from fedrelease.models.layers import count_layers, layer_list
from fedrelease.models.per_example import LearnedVectors

__all__ = ["Prompt", "check_room", "make_prompt", "positions", "prompted"]

DEVIATION = 0.02
"""Of what vectors are drawn with: that of most bases' own tables when they were new."""


class Prompt(nn.Module):
    """The vectors: of the base's entrance, or of each layer's.

    Attributes:
        deep: whether each layer has its own.
        tokens: how many stand before a text.
    """

    def __init__(self, tokens: int, width: int, *, layers: int | None) -> None:
        """``layers``: of the base, each of which has its own; ``None`` for one set before the base."""
        super().__init__()
        self.deep = layers is not None
        self.tokens = tokens
        self.layer = nn.ModuleList(LearnedVectors(tokens, width) for _ in range(layers or 1))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Put them where training starts: small random numbers, layer by layer."""
        for vectors in self.layer:
            nn.init.normal_(cast(LearnedVectors, vectors).weight, std=DEVIATION, generator=generator)

    def at(self, place: int, like: Tensor) -> Tensor:
        """The vectors of a layer for each row of ``like``, ``[rows, tokens, width]``, in its precision."""
        return cast(Tensor, self.layer[place](like.shape[0])).to(like.dtype)


def make_prompt(encoder: nn.Module, adapter: Adapter) -> Prompt | None:
    """The vectors of an adapter, not drawn yet; ``None`` where its kind has none.

    Raises:
        ModelError: the base has no room for them, or a prefix is to go where there is no list of layers.
    """
    if "tokens" not in adapter.keys:
        return None
    check_room(encoder, adapter.tokens, 1, key="model.adapter.tokens")
    layers = count_layers(encoder) if adapter.kind == "prefix" else None
    if layers is not None and len(layer_list(encoder)) != layers:
        raise ModelError(
            "the base does not keep its layers in one list",
            value=type(encoder).__name__,
            rule="a prefix enters each layer of a transformer",
            hint='set [model.adapter] kind = "prompt", whose vectors stand before the base alone',
        )
    return Prompt(adapter.tokens, _table(encoder).embedding_dim, layers=layers)


def _table(encoder: nn.Module) -> nn.Embedding:
    """Of the base's words."""
    return cast(nn.Embedding, cast(Any, encoder).get_input_embeddings())


def positions(encoder: nn.Module) -> int | None:
    """How many tokens the base can tell the places of; ``None`` where it does not say.

    A table of places that has one for padding, as RoBERTa's has, begins behind that.
    """
    most = getattr(encoder.config, "max_position_embeddings", None)
    tables = (module for name, module in encoder.named_modules() if name.endswith("position_embeddings"))
    lost = [table.padding_idx + 1 for table in tables if getattr(table, "padding_idx", None) is not None]
    return None if most is None else int(most) - sum(lost)


def check_room(encoder: nn.Module, tokens: int, length: int, *, key: str = "training.max_length") -> None:
    """Refuse a text of ``length`` tokens behind ``tokens`` vectors where the base has no places for both.

    Raises:
        ModelError: the text names the largest ``length``.
    """
    most = positions(encoder)
    if most is not None and tokens + length > most:
        raise ModelError(
            "the vectors before a text and the text are too long for the base",
            value=f"{tokens} + {length} tokens",
            rule=f"model.adapter.tokens and training.max_length are together at most {most}, the base's last position",
            hint=f"set {key} to at most {most - (length if key.endswith('.tokens') else tokens)}",
        )


def prompted(encoder: nn.Module, prompt: Prompt, input_ids: Tensor, attention_mask: Tensor, **more: object) -> Any:
    """What the base gives for vectors and text: ``last_hidden_state`` is ``[rows, prompt.tokens + tokens, width]``.

    Args:
        input_ids, attention_mask: int64 ``[rows, tokens]``, padded on the right.
        more: goes to the base as it is.
    """
    text: Tensor = _table(encoder)(input_ids)
    before = text.new_zeros(text.shape[0], prompt.tokens, text.shape[2]) if prompt.deep else prompt.at(0, text)
    mask = torch.cat([attention_mask.new_ones(text.shape[0], prompt.tokens), attention_mask], 1)
    with _entering(encoder, prompt):
        return encoder(inputs_embeds=torch.cat([before, text], 1), attention_mask=mask, **more)


@contextmanager
def _entering(encoder: nn.Module, prompt: Prompt) -> Iterator[None]:
    """Within it each layer is given its own vectors in place of what came out of the layer before."""
    with ExitStack() as hooks:
        for place, layer in enumerate(layer_list(encoder) if prompt.deep else ()):
            handle = layer.register_forward_pre_hook(partial(_enter, prompt, place), with_kwargs=True)
            hooks.callback(handle.remove)
        yield


def _enter(
    prompt: Prompt, place: int, _: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    hidden: Tensor = given[0] if given else named["hidden_states"]
    changed = torch.cat([prompt.at(place, hidden), hidden[:, prompt.tokens :]], 1)
    return ((changed, *given[1:]), named) if given else (given, {**named, "hidden_states": changed})
