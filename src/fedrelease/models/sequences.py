"""A model that reads one text and writes another: encoder, decoder, adapter, and the base's own last layer, frozen.

Example::

    model = build_sequence_model(base, experiment.model, seed=7)
    model(*batch.inputs)[..., 0]                                 # nats of each token of the target, float32 [rows, tokens]
    written(model, source_ids, tokens=40, end=tokenizer.eos_token_id)

A row is the source's tokens and then the target's. Which are which is told by its targets: the source's tokens have none.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedrelease.data.tokens import IGNORED
from fedrelease.errors import ModelError
from fedrelease.experiment import Model
from fedrelease.models.adapters import put_adapter
from fedrelease.models.bases import Base
from fedrelease.models.classifier import draw_factors
from fedrelease.models.encoders import open_seq2seq, setting
from fedrelease.models.every_weight import train_used_weights
from fedrelease.models.precision import matmul
from fedrelease.models.vocabulary import VocabularyHead, told_at

__all__ = ["SequenceModel", "beginning", "build_sequence_model", "written"]


class SequenceModel(nn.Module):
    """An encoder and a decoder under one name, ``encoder``, as transformers has them, and the base's own last layer."""

    task = "seq2seq"

    def __init__(self, encoder: nn.Module, head: VocabularyHead) -> None:
        """``encoder`` is the whole body; its configuration says what the decoder is given first."""
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.width = setting(encoder, "hidden_size")
        config = cast(Any, encoder).config
        self.start = _start(encoder)
        self.end = config.eos_token_id if isinstance(config.eos_token_id, int) else None
        self.scale = self.width**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0

    def draw(self, seed: int) -> None:
        """Put what is trained where training starts; it follows from ``seed`` alone."""
        draw_factors(self, torch.Generator().manual_seed(seed))

    @property
    def dtype(self) -> torch.dtype:
        """The base's precision."""
        return next(self.encoder.parameters()).dtype

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        prefix: Tensor | None,
        segments: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """What :func:`fedrelease.models.vocabulary.told_at` says of each token of the target, after those before it.

        Args:
            input_ids, attention_mask: int64 ``[rows, tokens]``: source and target one after the other, padded on the right.
            prefix, segments: never used.
            targets: int64 ``[rows, tokens]``: the target's tokens in their places, ``IGNORED`` at the source's.

        Raises:
            ModelError: rows without targets, which are not of this task.
        """
        del prefix, segments
        if targets is None:
            raise ModelError("these rows have no target", value="none", rule="seq2seq reads a source and its target")
        written_at = targets != IGNORED
        read = attention_mask.bool() & ~written_at
        wanted = _to_the_left(targets, written_at)
        source = slice(0, int(read.sum(1).max()))
        there = read[:, source].to(torch.int64)
        hidden = self.read(input_ids[:, source], there)
        out = cast(Any, self.encoder).get_decoder()(
            input_ids=self._shifted(wanted),
            attention_mask=(wanted != IGNORED).to(torch.int64),
            encoder_hidden_states=hidden,
            encoder_attention_mask=there,
            use_cache=False,
        )
        told = told_at(self.head, self.vectors(out.last_hidden_state), wanted)
        found = told.new_zeros(*targets.shape, 2)
        found[written_at] = told[wanted != IGNORED]  # both go through rows, and through a row's tokens in order
        return found

    def read(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What the encoder gives for each token of the source, ``[rows, tokens, width]``, in the base's precision."""
        found: Tensor = (
            cast(Any, self.encoder).get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        )
        return found

    def next_logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits, float32 ``[rows, vocabulary]``, of what a decoder that read a row says after that row's beginning."""
        out = cast(Any, self.encoder).get_decoder()(
            input_ids=beginning(input_ids, self.start),
            encoder_hidden_states=self.read(input_ids, attention_mask),
            encoder_attention_mask=attention_mask,
            use_cache=False,
        )
        logits: Tensor = self.head(self.vectors(out.last_hidden_state[:, -1]))
        return logits

    def vectors(self, hidden: Tensor) -> Tensor:
        """What the last layer is given, float32, of the decoder's last hidden states."""
        return hidden.float() * self.scale

    def _shifted(self, wanted: Tensor) -> Tensor:
        """What the decoder is given at each place: the token before the one that it is to tell."""
        first = wanted.new_full((len(wanted), 1), self.start)
        return torch.cat([first, wanted[:, :-1].clamp(min=0)], 1)


def beginning(input_ids: Tensor, start: int) -> Tensor:
    """What a decoder begins with and four tokens of each row, ``[rows, 5]`` or fewer: to ask two models for the same."""
    return torch.cat([input_ids.new_full((len(input_ids), 1), start), input_ids[:, :4]], 1)


def _start(encoder: nn.Module) -> int:
    found = getattr(cast(Any, encoder).config, "decoder_start_token_id", None)
    if found is None:
        rule, hint = "a decoder begins with a token of its own", "write decoder_start_token_id into config.json"
        raise ModelError("the base does not say what its decoder begins with", value=found, rule=rule, hint=hint)
    return int(found)


def _to_the_left(targets: Tensor, there: Tensor) -> Tensor:
    """The targets alone, ``[rows, most targets of a row]``, ``IGNORED`` after a row's last one."""
    counts = there.sum(1)
    columns = torch.arange(int(counts.max()) if len(counts) else 0)
    found = targets.new_full((len(targets), len(columns)), IGNORED)
    found[columns < counts[:, None]] = targets[there]
    return found


def build_sequence_model(base: Base, model: Model, *, seed: int) -> SequenceModel:
    """Load the base with its last layer and put the adapter on encoder and decoder, or train every weight.

    Raises:
        ModelError: the base does not load, reads and writes no texts, or lacks the layers or modules that the adapter names.
    """
    encoder, head = open_seq2seq(base, model)
    _check_depth(encoder, model)
    encoder.requires_grad_(False)
    put_adapter(encoder, model.adapter)
    found = SequenceModel(encoder, head)
    if model.adapter.trains_base:
        ids, whole = torch.zeros(1, 2, dtype=torch.int64), model.adapter.kind == "full"
        train_used_weights(found, ids, torch.ones_like(ids), None, None, torch.tensor([[IGNORED, 0]]), every=whole)
    found.draw(seed)
    return found


def _check_depth(encoder: nn.Module, model: Model) -> None:
    config = cast(Any, encoder).config
    above = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None)
    if model.adapter.layers != "all" and above not in (None, setting(encoder, "num_hidden_layers")):
        raise ModelError(
            "the decoder of the base has another number of layers than its encoder",
            value=model.adapter.layers,
            rule="then the adapter is on all layers",
            hint='set [model.adapter] layers = "all"',
        )


@torch.no_grad()
def written(model: SequenceModel, ids: Sequence[int], *, tokens: int, end: int | None) -> list[int]:
    """What the model writes for a source: the most likely token, again and again, at most ``tokens``, without ``end``.

    Args:
        ids: the source's tokens, at least one.
        tokens: at least one; fewer come where the base has no room for so many.
        end: the end-of-text token, where the base has one.
    """
    found: list[int] = []
    source, given, past = torch.tensor([list(ids)]), torch.tensor([[model.start]]), None
    decoder = cast(Any, model.encoder).get_decoder()
    most = min(tokens, getattr(decoder.config, "max_position_embeddings", tokens))
    with matmul("medium"):
        hidden = model.read(source, torch.ones_like(source))
        while len(found) < most:
            out = decoder(input_ids=given, encoder_hidden_states=hidden, past_key_values=past, use_cache=True)
            past, best = out.past_key_values, int(model.head(model.vectors(out.last_hidden_state[:, -1])).argmax(1))
            if best == end:
                break
            found.append(best)
            given = torch.tensor([[best]])
    return found
