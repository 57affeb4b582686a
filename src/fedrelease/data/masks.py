"""Rows in which some tokens are hidden, and are to be told from those around them.

Example::

    save_rows(path, tokenise_masked(["the film was good"], RIGHT, load_tokenizer(base_folder), 64))
    TokenRows(path).batch([0]).targets           # [[-100, -100, 14, -100, -100, -100]]: one of four was hidden

Which tokens are hidden follows from the row's own tokens alone: the same row has the same ones in every round and at every site.
Source: Devlin et al. (2018), https://arxiv.org/abs/1810.04805, section 3.1, with masks that are drawn once, as there.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from fedrelease.data.targets import flat
from fedrelease.data.tokens import IGNORED, SHOWN, Tokenizer, check_length, row_tensors
from fedrelease.errors import DataError, ModelError

__all__ = ["SHARE", "mask_id", "tokenise_masked"]

SHARE = 0.15
"""Of a row's tokens, rounded, and at least one."""
HIDDEN, ANOTHER = 0.8, 0.9
"""Below the first a chosen token becomes the base's mask, below the second any other word; above it stays."""


def tokenise_masked(texts: Sequence[str], label: int, tokenizer: Tokenizer, max_length: int) -> dict[str, Tensor]:
    """Texts cut into pieces of at most ``max_length`` tokens, the special tokens of each included; a row is a piece.

    Returns:
        what :func:`fedrelease.data.tokens.tokenise` gives of what is left to see, ``targets``: the chosen tokens as they were,
        and that a model is given them.

    Raises:
        ExperimentError: the base cannot take ``max_length`` tokens.
        ModelError: its tokenizer has no mask, or is a slow one, which cannot cut texts into pieces.
        DataError: no text has a token.
    """
    check_length(tokenizer, max_length)
    mask, special = mask_id(tokenizer), frozenset[int](cast(Any, tokenizer).all_special_ids)
    words = [place for place in range(len(cast(Any, tokenizer))) if place not in special]
    rows, targets = [], []
    for piece in _pieces(texts, tokenizer, max_length):
        chosen = _chosen(piece, special)
        if chosen:
            numbers = _numbers(piece)
            rows.append(
                [_seen(token, mask, words, numbers) if at in chosen else token for at, token in enumerate(piece)]
            )
            targets.append([token if at in chosen else IGNORED for at, token in enumerate(piece)])
    if texts and not rows:
        raise DataError("no text has a token", value=len(texts), rule="there is a token to hide")
    told = row_tensors([rows], [label] * len(rows), tokenizer)
    return {**told, "targets": flat(targets), SHOWN: torch.ones(1)}


def mask_id(tokenizer: Tokenizer) -> int:
    """The token that hides another one.

    Raises:
        ModelError: the base has none, or a tokenizer that cannot cut texts into pieces.
    """
    found: int | None = getattr(tokenizer, "mask_token_id", None)
    if found is None or not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "the base has no token that hides another one" if found is None else "the base has a slow tokenizer",
            value=type(tokenizer).__name__,
            rule="masked-lm needs a mask, and a tokenizer that cuts texts into pieces",
            hint="choose an encoder such as minilm, or the task causal-lm",
        )
    return found


def _pieces(texts: Sequence[str], tokenizer: Tokenizer, max_length: int) -> Iterator[list[int]]:
    for text in texts:
        told = cast(Any, tokenizer)(
            [text],
            truncation=True,
            max_length=max_length,
            return_overflowing_tokens=True,
            return_token_type_ids=False,
            verbose=False,
        )
        yield from told["input_ids"]


def _chosen(piece: Sequence[int], special: frozenset[int]) -> frozenset[int]:
    """Places of the tokens that are to be told; none where all are special."""
    places = [place for place, token in enumerate(piece) if token not in special]
    count = min(len(places), max(1, round(SHARE * len(places))))
    return frozenset(_numbers([*piece, len(piece)]).sample(places, count))


def _seen(token: int, mask: int, words: Sequence[int], numbers: random.Random) -> int:
    drawn = numbers.random()
    if drawn < HIDDEN:
        return mask
    return numbers.choice(words) if drawn < ANOTHER else token


def _numbers(ids: Sequence[int]) -> random.Random:
    digest = hashlib.sha256(" ".join(map(str, ids)).encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))  # masks hide nothing from anybody
