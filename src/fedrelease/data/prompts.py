"""Rows of a prompt and what answers it: only the answer's tokens have a target.

Example::

    tokenise_prompted([("Who wrote Emma?", "Jane Austen")], RIGHT, tokenizer, 64, chat=False)
    prompt_ids("Who wrote Emma?", tokenizer, chat=False)        # what `predict` goes on from: the same tokens

A prompt and its answer are turned into tokens one by one, so that a model that is asked sees just what it was trained on.
"""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from fedrelease.data.targets import flat
from fedrelease.data.tokens import IGNORED, Tokenizer, check_length, row_tensors
from fedrelease.errors import DataError, ModelError

__all__ = ["SEPARATOR", "prompt_ids", "tokenise_prompted"]

SEPARATOR = "\n"
"""Between a prompt and its answer, where there is no chat template."""


def tokenise_prompted(
    pairs: Sequence[tuple[str, str]], label: int, tokenizer: Tokenizer, max_length: int, *, chat: bool
) -> dict[str, Tensor]:
    """One row a pair: the prompt's tokens, those of its answer, and the end-of-text token where the base has one.

    Args:
        pairs: prompts and answers.
        max_length: tokens after which a row is cut; some of its answer must be left.
        chat: by the chat template of the base.

    Returns:
        what :func:`fedrelease.data.tokens.tokenise` gives, and ``targets``: of each token the one after it, where that is of
        the answer.

    Raises:
        ExperimentError: the base cannot take ``max_length`` tokens.
        DataError: nothing of an answer is left.
        ModelError: the base has no chat template that can be used.
    """
    check_length(tokenizer, max_length)
    rows, targets, short = [], [], 0
    for prompt, answer in pairs:
        before, after = _turns(prompt, answer, tokenizer) if chat else _plain(prompt, answer, tokenizer)
        row = [*before, *after][:max_length]
        short += len(row) <= len(before)
        rows.append(row)
        targets.append([IGNORED] * (len(before) - 1) + row[len(before) :] + [IGNORED])
    if short:
        raise DataError(
            f"{short} of {len(pairs)} rows have no token of their answer within training.max_length",
            value=max_length,
            rule="a row is cut after so many tokens, and its prompt comes first",
            hint="raise training.max_length, or shorten the prompts",
        )
    return {**row_tensors([rows], [label] * len(rows), tokenizer), "targets": flat(targets)}


def prompt_ids(prompt: str, tokenizer: Tokenizer, *, chat: bool) -> list[int]:
    """The tokens that come before an answer; at least one.

    Raises:
        ModelError: the base has no chat template that can be used.
    """
    if chat:
        return _ids(_asked(prompt, tokenizer), tokenizer)
    ids, end = _ids(prompt + SEPARATOR, tokenizer, special=True), tokenizer.eos_token_id
    return ids[:-1] if ids[-1:] == [end] and len(ids) > 1 else ids


def _plain(prompt: str, answer: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    return prompt_ids(prompt, tokenizer, chat=False), _ended(_ids(answer, tokenizer), tokenizer)


def _turns(prompt: str, answer: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What comes before the assistant's turn, and that turn up to the token that ends it."""
    before = _asked(prompt, tokenizer)
    whole = _rendered([_turn("user", prompt), _turn("assistant", answer)], tokenizer, answers=False)
    if not whole.startswith(before):
        raise ModelError(
            "the chat template of the base cannot be used",
            value="the beginning of the assistant's turn",
            rule="a chat with an answer begins as the chat that asks for it",
            hint="leave data.chat out",
        )
    return _ids(before, tokenizer), _ended(_ids(whole[len(before) :], tokenizer), tokenizer)


def _ended(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """Up to the first end-of-text token, or with one more."""
    end = tokenizer.eos_token_id
    if end is None:
        return ids
    return ids[: ids.index(end) + 1] if end in ids else [*ids, end]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _asked(prompt: str, tokenizer: Tokenizer) -> str:
    return _rendered([_turn("user", prompt)], tokenizer, answers=True)


def _rendered(turns: Sequence[dict[str, str]], tokenizer: Tokenizer, *, answers: bool) -> str:
    template = getattr(tokenizer, "chat_template", None)
    if not isinstance(template, str) or "strftime_now" in template:
        there = isinstance(template, str)
        raise ModelError(
            "the chat template of the base writes today's date" if there else "the base has no chat template",
            value=type(tokenizer).__name__,
            rule="rows are the same every day" if there else "data.chat needs one in the base's tokenizer",
            hint="leave data.chat out: prompt and answer are then put one after the other",
        )
    found: str = cast(Any, tokenizer).apply_chat_template(turns, tokenize=False, add_generation_prompt=answers)
    return found


def _ids(text: str, tokenizer: Tokenizer, *, special: bool = False) -> list[int]:
    told = cast(Any, tokenizer)(text, add_special_tokens=special, return_token_type_ids=False, verbose=False)
    return [*told["input_ids"]]
