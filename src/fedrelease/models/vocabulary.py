"""The last layer of a language model, read in slices: what each next token costs, and whether it was told.

Example::

    head = VocabularyHead(576, 49_152, bias=False)
    told(head, vectors, input_ids, attention_mask)       # float32 [rows, tokens, 2]: nats of the next token; 1 where told

Logits of a whole batch are ``[rows, tokens, vocabulary]``: 8 rows of 256 tokens are 400 MB of 49,152 words, and their gradient as
much again. Here they are formed for a slice of the tokens at a time, and with them the gradient of each token's loss, which is as
small as its vector. Source: Hsu et al. (2024), https://arxiv.org/abs/2410.10989, section 3.2, without the fused kernel.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from fedrelease.data.tokens import IGNORED

__all__ = ["SLICE_NUMBERS", "PlainVocabularyHead", "VocabularyHead", "next_tokens", "told", "told_at"]

SLICE_NUMBERS = 1 << 24
"""Logits that are held at a time: 64 MB of float32."""


def next_tokens(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens have one after them, bool ``[rows, tokens]``; and those that come after, int64 ``[their number]``."""
    followed = attention_mask.bool().clone()
    followed[:, :-1] &= attention_mask[:, 1:].bool()
    followed[:, -1] = False
    return followed, input_ids[:, 1:][followed[:, :-1]]


class VocabularyHead(nn.Linear):
    """A linear layer from a token's vector to how likely each word is to come next, float32: frozen, or trained with all else."""

    def nats(self, vectors: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Nats of the words ``after``, int64 ``[n]``, at vectors ``[n, width]``; 1.0 where that word was the most likely."""
        if self.weight.requires_grad:  # its gradient needs all slices: every weight is trained
            return _plain_nats(self, vectors, after)
        nats, right = _Sliced.apply(vectors, self.weight, self.bias, after)  # type: ignore[no-untyped-call]
        return nats, right


class PlainVocabularyHead(nn.Linear):
    """The same with all logits at once and autograd's own gradients: what the slices are checked against."""

    def nats(self, vectors: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """As :class:`VocabularyHead`."""
        return _plain_nats(self, vectors, after)


def told(
    head: VocabularyHead | PlainVocabularyHead, vectors: Tensor, input_ids: Tensor, attention_mask: Tensor
) -> Tensor:
    """For each token the nats of the one after it, and 1.0 where that one was the most likely; zeros where none comes.

    Args:
        head: a :class:`VocabularyHead`.
        vectors: float32 ``[rows, tokens, width]``.
        input_ids, attention_mask: int64 ``[rows, tokens]``, padded on the right.

    Returns:
        float32 ``[rows, tokens, 2]``; the gradient goes through the nats alone.
    """
    followed, after = next_tokens(input_ids, attention_mask)
    found = vectors.new_zeros(*followed.shape, 2)
    found[followed] = torch.stack(head.nats(vectors[followed], after), 1)
    return found


def told_at(head: VocabularyHead | PlainVocabularyHead, vectors: Tensor, targets: Tensor) -> Tensor:
    """For each token the nats of its own target, and 1.0 where that was the most likely word; zeros where it has none.

    Args:
        head: as of :func:`told`.
        vectors: float32 ``[rows, tokens, width]``.
        targets: int64 ``[rows, tokens]``; ``IGNORED`` where nothing is told.

    Returns:
        as :func:`told`.
    """
    asked = targets != IGNORED
    found = vectors.new_zeros(*targets.shape, 2)
    found[asked] = torch.stack(head.nats(vectors[asked], targets[asked]), 1)
    return found


def _plain_nats(head: nn.Linear, vectors: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    logits = functional.linear(vectors, head.weight, head.bias)
    right = (logits.argmax(1) == after).to(logits.dtype)
    return functional.cross_entropy(logits, after, reduction="none"), right


class _Sliced(Function):
    """Cross-entropy of a frozen layer's logits. Backward scales the gradients that forward formed slice by slice."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weight: Tensor, bias: Tensor | None, after: Tensor) -> tuple[Tensor, Tensor]:
        size = max(1, SLICE_NUMBERS // len(weight))
        nats, right = vectors.new_empty(len(after)), vectors.new_empty(len(after))
        gradients = torch.empty_like(vectors) if ctx.needs_input_grad[0] else None
        for place in range(0, len(after), size):
            part = slice(place, place + size)
            logits, wanted = functional.linear(vectors[part], weight, bias), after[part, None]
            right[part] = (logits.argmax(1) == wanted[:, 0]).to(logits.dtype)
            shares = logits.log_softmax(1)
            nats[part] = -shares.gather(1, wanted)[:, 0]
            if gradients is not None:
                shares.exp_().scatter_add_(1, wanted, shares.new_full(wanted.shape, -1.0))
                torch.mm(shares, weight, out=gradients[part])
        ctx.save_for_backward(*([] if gradients is None else [gradients]))
        ctx.mark_non_differentiable(right)
        return nats, right

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        return gradients * given[0][:, None], None, None, None
