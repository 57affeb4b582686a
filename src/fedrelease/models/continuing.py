"""Going on with a text: the most likely next token, again and again, so that the same model says the same.

Example::

    continued(model, tokenizer("My fellow citizens,")["input_ids"], tokens=40, end=tokenizer.eos_token_id)     # [284, 421, ...]
"""

from collections.abc import Sequence
from typing import Any

import torch

from fedrelease.errors import ModelError
from fedrelease.models.classifier import TextClassifier
from fedrelease.models.encoders import setting
from fedrelease.models.precision import matmul
from fedrelease.models.prompts import prompted

__all__ = ["continued", "next_logits"]


@torch.no_grad()
def continued(model: TextClassifier, ids: Sequence[int], *, tokens: int, end: int | None) -> list[int]:
    """The tokens after ``ids``, at most ``tokens`` of them, up to and without ``end``.

    Args:
        model: of :func:`fedrelease.models.language_model.build_language_model`.
        ids: at least one.
        tokens: at least one.
        end: the end-of-text token, where the base has one.

    Raises:
        ModelError: the base has no room for so many.
    """
    _check_room(model, len(ids), tokens)
    found: list[int] = []
    given, past = torch.tensor([list(ids)]), None
    with matmul("medium"):
        while len(found) < tokens:
            out = _asked(model, given, past)
            past, best = out.past_key_values, int(next_logits(model, out.last_hidden_state[:, -1]).argmax(1))
            if best == end:
                break
            found.append(best)
            given = torch.tensor([[best]])
    return found


def _asked(model: TextClassifier, given: torch.Tensor, past: object) -> Any:
    """What the base says of the tokens behind ``past``; learned vectors stand before the first ones."""
    if past is None and model.prompt is not None:
        return prompted(model.encoder, model.prompt, given, torch.ones_like(given), use_cache=True)
    return model.encoder(input_ids=given, past_key_values=past, use_cache=True)


def next_logits(model: TextClassifier, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of the next token, float32 ``[rows, vocabulary]``, after tokens with the base's vectors ``[rows, width]``."""
    logits: torch.Tensor = model.head(hidden.float() * model.scale)
    return logits


def _check_room(model: TextClassifier, before: int, after: int) -> None:
    learned = 0 if model.prompt is None else model.prompt.tokens
    room = setting(model.encoder, "max_position_embeddings") - learned
    if before + after > room:
        raise ModelError(
            "the text and what comes after it are too long for the base",
            value=f"{before} + {after} tokens",
            rule=f"together they are at most {room} tokens",
            hint="shorten the text, or ask for fewer --tokens",
        )
