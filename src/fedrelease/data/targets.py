"""Rows in which single tokens have a target: a word's tag, or the token that comes next.

Example::

    save_rows(path, tokenise_words([["Ada", "wrote"]], [[1, 0]], [1], load_tokenizer(base_folder), 64))
    TokenRows(path).batch([0]).targets           # [[-100, 1, 0, -100]]: tags lie on the words' first pieces
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from fedrelease.data.tokens import IGNORED, Tokenizer, check_length, row_tensors
from fedrelease.errors import DataError, ModelError

__all__ = ["flat", "tokenise_next", "tokenise_words"]


def tokenise_words(
    texts: Sequence[Sequence[str]],
    tags: Sequence[Sequence[int]],
    labels: Sequence[int],
    tokenizer: Tokenizer,
    max_length: int,
) -> dict[str, Tensor]:
    """Texts that are cut into words, with a tag for each word.

    Args:
        texts: the words of each text.
        tags: as many for each text.
        labels: one a text.
        tokenizer: of the base; a fast one, which knows what word a piece is of.
        max_length: tokens after which a text is cut, special tokens included; words beyond it have no target.

    Returns:
        what :func:`fedrelease.data.tokens.tokenise` gives, and ``targets`` int32 [all tokens].

    Raises:
        ExperimentError: the base cannot take ``max_length`` tokens.
        ModelError: the tokenizer does not know what word a piece is of.
    """
    check_length(tokenizer, max_length)
    if not getattr(tokenizer, "is_fast", False):
        rule, hint = "a tag needs to know which pieces are of which word", "save the base with a tokenizer.json"
        raise ModelError("the base has a slow tokenizer", value=type(tokenizer).__name__, rule=rule, hint=hint)
    rows, targets = [], []
    for words, own in zip(texts, tags, strict=True):
        pieces = cast(Any, tokenizer)(
            list(words), is_split_into_words=True, truncation=True, max_length=max_length, return_token_type_ids=False
        )
        rows.append(pieces["input_ids"])
        targets.append(_on_first_pieces(pieces.word_ids(0), own))
    return {**row_tensors([rows], labels, tokenizer), "targets": flat(targets)}


def _on_first_pieces(words: Sequence[int | None], tags: Sequence[int]) -> list[int]:
    before: list[int | None] = [None, *words[:-1]]
    pairs = zip(words, before, strict=True)
    return [IGNORED if word is None or word == last else tags[word] for word, last in pairs]


def tokenise_next(texts: Sequence[str], label: int, tokenizer: Tokenizer, max_length: int) -> dict[str, Tensor]:
    """Texts cut into pieces of at most ``max_length`` tokens; the target of a token is the one after it in its piece.

    A piece never goes over two texts, so that each is of one text alone. A text ends with the end-of-text token, where the
    base has one. Pieces of one token have no target and are left out.

    Returns:
        what :func:`fedrelease.data.tokens.tokenise` gives, a row for each piece with this ``label``, and ``targets``.

    Raises:
        ExperimentError: the base cannot take ``max_length`` tokens.
        DataError: no text has two tokens.
    """
    check_length(tokenizer, max_length)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rows = []
    for text in texts:
        ids = [*cast(Any, tokenizer)(text, return_token_type_ids=False, verbose=False)["input_ids"]]
        ids += end if ids[-1:] != end else []
        rows += [piece for at in range(0, len(ids), max_length) if len(piece := ids[at : at + max_length]) > 1]
    if texts and not rows:
        raise DataError("no text has two tokens", value=len(texts), rule="there is a next token to tell")
    targets = flat([[*row[1:], IGNORED] for row in rows])
    return {**row_tensors([rows], [label] * len(rows), tokenizer), "targets": targets}


def flat(targets: Sequence[Sequence[int]]) -> Tensor:
    """Targets of rows, one after the other, int32 ``[all tokens]``."""
    return torch.tensor([target for row in targets for target in row], dtype=torch.int32)
