"""Rows of two texts, put together as the base's own tokenizer does it.

Example::

    save_rows(path, tokenise_pairs([("It rains.", "The street is wet.")], [0], load_tokenizer(base_folder), 64))
    TokenRows(path).batch([0]).segments          # [[0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]]: 1 from the second text on
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from fedrelease.data.tokens import Tokenizer, check_length, row_tensors, tokenise

__all__ = ["tokenise_pairs"]

_CHUNK = 4096
SEGMENTS = "token_type_ids"


def tokenise_pairs(
    pairs: Sequence[tuple[str, str]], labels: Sequence[int], tokenizer: Tokenizer, max_length: int
) -> dict[str, Tensor]:
    """Pairs as flat tensors. A pair that is too long loses tokens of its longer text first.

    A tokenizer that puts nothing between two texts, as GPT-2's, is given both as one text, with a line break between them.

    Returns:
        what :func:`fedrelease.data.tokens.tokenise` gives, and ``segments`` int32 [all tokens] as the tokenizer tells texts
        apart: BERT's 0 for tokens of the first and 1 for those of the second, RoBERTa's 0 for all. A base that was trained
        without segments is not given them.

    Raises:
        ExperimentError: the base cannot take ``max_length`` tokens.
    """
    check_length(tokenizer, max_length)
    own = cast(Any, tokenizer)
    if own.num_special_tokens_to_add(pair=True) == 0:
        return tokenise([f"{first}\n{second}" for first, second in pairs], labels, tokenizer, max_length)
    chunks = list(_chunks(pairs, own, max_length))
    rows = row_tensors([ids for ids, _ in chunks], labels, tokenizer)
    flat = [number for _, segments in chunks for row in segments for number in row]
    return {**rows, "segments": torch.tensor(flat, dtype=torch.int32)}


def _chunks(
    pairs: Sequence[tuple[str, str]], tokenizer: Any, max_length: int
) -> Iterator[tuple[list[list[int]], list[list[int]]]]:
    for start in range(0, len(pairs), _CHUNK):
        first, second = zip(*pairs[start : start + _CHUNK], strict=True)
        encoded = tokenizer(
            list(first),
            list(second),
            truncation="longest_first",
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=True,
        )
        yield encoded["input_ids"], encoded[SEGMENTS]
