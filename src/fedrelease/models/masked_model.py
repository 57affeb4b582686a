"""An encoder that tells hidden tokens: base, adapter, what turns a token's vector, and the base's own table of words, frozen.

Example::

    model = build_masked_model(base, experiment.model, seed=7)
    model(*batch.inputs)[..., 0]                     # nats of each hidden token, float32 [rows, tokens]; zeros elsewhere

A base that was saved with its own head for this keeps it, frozen. A base without one, such as a sentence encoder, gets one linear
layer that is trained, from the identity, and reads words by the table that it embeds them with: its vectors were never meant for
that table, and one layer is what lies between them. Source: Devlin et al. (2018), https://arxiv.org/abs/1810.04805; for one table
that reads and writes, Press and Wolf (2017), https://arxiv.org/abs/1608.05859.
"""

import json
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fedrelease.errors import ModelError
from fedrelease.experiment import Model
from fedrelease.models.bases import Base
from fedrelease.models.classifier import TextClassifier, adapted
from fedrelease.models.encoders import float32, open_encoder, open_masked, setting
from fedrelease.models.per_example import Head
from fedrelease.models.precision import matmul
from fedrelease.models.vocabulary import VocabularyHead

__all__ = ["HEADS", "build_masked_model", "likely"]

HEADS = {
    "albert": "predictions",
    "bert": "cls",
    "camembert": "lm_head",
    "mpnet": "lm_head",
    "roberta": "lm_head",
    "xlm-roberta": "lm_head",
}
"""By ``model_type``: what transformers calls the head for hidden tokens, where it is one module."""


def build_masked_model(base: Base, model: Model, *, seed: int) -> TextClassifier:
    """Load the base, with its own head where it has one, and put the adapter on it.

    Raises:
        ModelError: the base does not load, or its table of words does not fit its vectors.
    """
    name = _own_head(base, model)
    if name is not None:
        encoder, turn, words = open_masked(base, model, name)
        return adapted(encoder, None, words, model, seed=seed, turn=turn)
    encoder = open_encoder(base, model)
    table, width = cast(nn.Parameter, cast(Any, encoder).get_input_embeddings().weight), setting(encoder, "hidden_size")
    if table.shape[1] != width:
        rule = f"a table that words are read with is as wide as the base's vectors, {width}"
        hint = "choose another encoder, or one that was saved with its head for hidden tokens"
        raise ModelError("the base cannot tell hidden tokens", value=table.shape[1], rule=rule, hint=hint)
    words = VocabularyHead(width, len(table), bias=False, device="meta")
    words.weight = float32(table)
    return adapted(encoder, None, words, model, seed=seed, turn=Head(width, width))


def _own_head(base: Base, model: Model) -> str | None:
    """The name of the base's own head, where its weights are there."""
    if base.architecture is not None or base.shape is not None:
        return None  # it is refused where it is opened
    name = HEADS.get(_kind(base))
    return name if name is not None and any(f"{name}." in key for key in _keys(base)) else None


def _kind(base: Base) -> str:
    return str(json.loads((base.folder / "config.json").read_bytes()).get("model_type"))


def _keys(base: Base) -> set[str]:
    found = set[str]()
    for path in sorted(base.folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            found |= {key for key in file.keys()}  # noqa: C416, SIM118  # no mapping
    return found


@torch.no_grad()
def likely(model: TextClassifier, input_ids: Tensor, mask: int, *, count: int) -> list[list[tuple[int, float]]]:
    """Of each ``mask`` in one row, int64 ``[1, tokens]``, the most likely tokens and how likely they are."""
    with matmul("medium"):
        vectors = model.turned(model.vectors(input_ids, torch.ones_like(input_ids)))[input_ids == mask]
        shares, words = model.head(vectors).softmax(1).topk(count)
    return [list(zip(one.tolist(), many.tolist(), strict=True)) for one, many in zip(words, shares, strict=True)]
