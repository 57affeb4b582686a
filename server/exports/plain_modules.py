"""What a release is exported as: plain torch modules, with no layer of ours in them.

Example::

    PlainText(encoder, Pooling(), plain_linear(head))(input_ids, attention_mask)         # logits
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from fedrelease.models.bases import Pooling
from fedrelease.models.classifier import pool
from fedrelease.models.images import ImageClassifier
from fedrelease.models.per_example import Head
from fedrelease.models.prompts import Prompt, prompted
from fedrelease.models.sequences import beginning

__all__ = ["PlainEncoder", "PlainImages", "PlainLanguage", "PlainText", "last", "plain_linear"]


class PlainText(nn.Module):
    """Token ids to logits: the encoder, its pooling, a linear layer; without pooling each token has logits of its own."""

    def __init__(
        self,
        encoder: nn.Module,
        pooling: Pooling | None,
        head: nn.Linear,
        *,
        prompt: Prompt | None = None,
        before: int = 0,
    ) -> None:
        """``head`` already has what text vectors are multiplied by in its weights.

        ``prompt``: vectors before the text. ``before``: how many the encoder itself puts there, and gives vectors for.
        """
        super().__init__()
        self.before = before
        self.prompt = prompt
        self.encoder = encoder
        self.pooling = pooling
        self.head = head

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Logits, float32 ``[rows, labels]``, of int64 ``[rows, tokens]`` ids and mask; or ``[rows, tokens, labels]``.

        ``token_type_ids``: 1 for tokens of a second text, where a row has two and the base tells them apart.
        """
        hidden = self._hidden(input_ids, attention_mask, token_type_ids)
        logits: Tensor = self.head(hidden if self.pooling is None else pool(hidden, attention_mask, self.pooling))
        return logits

    def _hidden(self, input_ids: Tensor, attention_mask: Tensor, segments: Tensor | None) -> Tensor:
        if self.prompt is not None:
            whole: Tensor = prompted(self.encoder, self.prompt, input_ids, attention_mask).last_hidden_state
            return whole[:, self.prompt.tokens :]
        told = {} if segments is None else {"token_type_ids": segments}
        found: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **told).last_hidden_state
        return found[:, self.before :] if self.before else found


class PlainLanguage(nn.Module):
    """A language model as transformers has it, asked only for what comes after the last token of each row.

    One that has an encoder and a decoder is asked for what comes after the beginning of the row itself.
    """

    def __init__(self, whole: nn.Module) -> None:
        """``whole`` has a body, ``base_model``, and a layer that turns a token's vector into logits."""
        super().__init__()
        self.whole = whole

    @property
    def encoder(self) -> nn.Module:
        """The body."""
        return cast(nn.Module, self.whole.base_model)

    @property
    def prefix(self) -> str:
        """What the body is called in the whole model."""
        return "" if self.encoder is self.whole else f"{self.whole.base_model_prefix}."

    @property
    def writes(self) -> bool:
        """Whether it has an encoder and a decoder."""
        return bool(cast(Any, self.whole).config.is_encoder_decoder)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of the next token, float32 ``[rows, vocabulary]``, of int64 ``[rows, tokens]`` ids and mask."""
        if self.writes:
            return self._begun(input_ids, attention_mask)
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        logits: Tensor = cast(Any, self.whole).get_output_embeddings()(last(hidden, attention_mask))
        return logits

    def _begun(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        begun = beginning(input_ids, int(cast(Any, self.whole).config.decoder_start_token_id))
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "decoder_input_ids": begun}
        logits: Tensor = self.whole(**given, use_cache=False).logits[:, -1]
        return logits


class PlainEncoder(nn.Module):
    """An encoder alone, as transformers has it, asked for the mean of each row's vectors: a base for other tasks."""

    def __init__(self, encoder: nn.Module) -> None:
        """``encoder`` gives a vector a token."""
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors, float32 ``[rows, width]``, of int64 ``[rows, tokens]`` ids and mask."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return pool(hidden, attention_mask, Pooling())


def last(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """``[rows, width]``: the vector of each row's last token."""
    return hidden[torch.arange(len(hidden)), attention_mask.sum(1) - 1]


class PlainImages(nn.Module):
    """Pixels between 0 and 1, a flat row an image, to logits: brought to the base's scale, its layers, a linear layer."""

    def __init__(self, model: ImageClassifier) -> None:
        """Take over the model's parts; it is not used any more."""
        super().__init__()
        self.images = model
        self.images.head = cast(Head, plain_linear(model.head))

    def forward(self, features: Tensor) -> Tensor:
        """Logits, float32 ``[rows, labels]``."""
        logits: Tensor = self.images(features)
        return logits


@torch.no_grad()
def plain_linear(layer: nn.Module) -> nn.Linear:
    """A copy as torch's own layer."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    plain = nn.Linear(weight.shape[1], weight.shape[0])
    plain.weight.copy_(weight)
    plain.bias.copy_(bias)
    return plain
