"""Rows of a source and what is to be written for it: the source's tokens, then the target's, which alone have targets.

Example::

    save_rows(path, tokenise_pairs([("a long story", "a story")], RIGHT, load_tokenizer(base_folder), 128))
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from fedrelease.data.targets import flat
from fedrelease.data.tokens import IGNORED, SHOWN, Tokenizer, check_length, row_tensors

__all__ = ["source_ids", "tokenise_pairs"]


def tokenise_pairs(
    pairs: Sequence[tuple[str, str]], label: int, tokenizer: Tokenizer, max_length: int
) -> dict[str, Tensor]:
    """One row a pair.

    Args:
        pairs: sources and targets.
        max_length: tokens after which a source is cut, and so is a target.

    Returns:
        what :func:`fedrelease.data.tokens.tokenise` gives, ``targets``, and that a model is given them.

    Raises:
        ExperimentError: the base cannot take ``max_length`` tokens.
    """
    check_length(tokenizer, max_length)
    read = [source_ids(source, tokenizer, max_length) for source, _ in pairs]
    wanted = [_target_ids(target, tokenizer, max_length) for _, target in pairs]
    rows = [[*source, *target] for source, target in zip(read, wanted, strict=True)]
    targets = [[IGNORED] * len(source) + target for source, target in zip(read, wanted, strict=True)]
    told = row_tensors([rows], [label] * len(rows), tokenizer)
    return {**told, "targets": flat(targets), SHOWN: torch.ones(1)}


def source_ids(source: str, tokenizer: Tokenizer, max_length: int) -> list[int]:
    """What the encoder is given, with the special tokens of the base."""
    return [*_told(tokenizer, text=source, truncation=True, max_length=max_length)]


def _target_ids(target: str, tokenizer: Tokenizer, max_length: int) -> list[int]:
    """What the decoder is to say. It ends with the end-of-text token, where the base has one, unless it was cut."""
    end = tokenizer.eos_token_id
    ids = _told(tokenizer, text_target=target)
    ids = ids if end is None or ids[-1:] == [end] else [*ids, end]
    return ids[:max_length]


def _told(tokenizer: Tokenizer, **given: object) -> list[int]:
    found: list[int] = cast(Any, tokenizer)(**given, return_token_type_ids=False, verbose=False)["input_ids"]
    return found
