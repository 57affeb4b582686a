"""Telling the next token. An item is a token that could be told; it is ``right`` or ``wrong``, and those are the labels.

A row of the source is cut into pieces of at most ``training.max_length`` tokens; each piece is a row to train on. With
``[data] prompt`` a row is a prompt and its answer, only the answer's tokens could be told, and nothing is cut into pieces.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor

from fedrelease.data.cells import Cells, Example
from fedrelease.data.prompts import SEPARATOR, prompt_ids, tokenise_prompted
from fedrelease.data.targets import tokenise_next
from fedrelease.data.tokens import IGNORED, Batch, Tokenizer
from fedrelease.experiment import Data, Model
from fedrelease.experiment_sections import RIGHT
from fedrelease.files import Json
from fedrelease.models.metrics import Matrix, scores
from fedrelease.tasks.contract import AnyBatch, Asked, Judged, Sums, Task
from fedrelease.wording import plain

__all__ = ["CAUSAL_LM", "Continuation"]

MOST_NATS = 12.0
"""With noised metrics the mean loss of a row counts as at most this; knowing nothing of 100,000 tokens is 11.5."""


def _read(cells: Cells, data: Data) -> Example:
    text = cells.text(data.text)
    if data.prompt is not None:
        prompt = cells.text(data.prompt)
        return Example(text=f"{prompt}{SEPARATOR}{text}", label=RIGHT, content=[prompt, text], chat=data.chat)
    if data.words_per_text is not None:
        last = next(islice(re.finditer(r"\S+", text), data.words_per_text - 1, None), None)
        text = text if last is None else text[: last.end()]
    return Example(text=text, label=RIGHT)


def _encode(
    examples: Sequence[Example], labels: Sequence[str], tokenizer: Tokenizer, max_length: int
) -> dict[str, Tensor]:
    del labels
    if any(one.content is not None for one in examples):
        pairs = [cast(tuple[str, str], tuple(cast(list[str], one.content))) for one in examples]
        return tokenise_prompted(pairs, RIGHT, tokenizer, max_length, chat=examples[0].chat)
    return tokenise_next([one.text for one in examples], RIGHT, tokenizer, max_length)


def _build(base: Any, model: Model, *, seed: int) -> Any:
    from fedrelease.models.language_model import build_language_model

    return build_language_model(base, model, seed=seed)


def _losses(told: Tensor, batch: AnyBatch) -> Tensor:
    """The mean over a row's tokens, so that a long piece weighs no more than a short one."""
    counted = _counted(batch)
    return (told[..., 0] * counted).sum(1) / counted.sum(1).clamp(min=1)


def _judge(told: Tensor, batch: AnyBatch, labels: Sequence[str]) -> Judged:
    del labels
    counted = _counted(batch)
    loss, row = told[..., 0][counted], counted.nonzero()[:, 0]
    predicted = told[..., 1][counted].to(torch.int64)
    nats = torch.zeros(len(counted), 1, dtype=torch.float64).index_add_(0, row, loss.double()[:, None])
    return Judged(
        row=row,
        truth=torch.full_like(predicted, RIGHT),
        predicted=predicted,
        loss=loss,
        sums=torch.cat([nats, _answered(told, counted)], 1),
    )


def _counted(batch: AnyBatch) -> Tensor:
    """Which tokens have a next one that counts, bool ``[rows, tokens]``."""
    return cast(Tensor, cast(Batch, batch).targets) != IGNORED


def _answered(told: Tensor, counted: Tensor) -> Tensor:
    """Of each row that it is one, whether it has a prompt, and whether all that it told was right, float64 ``[rows, 3]``.

    Then the most likely token, taken each time, gives the answer: what is told of a token is told after all before it.
    """
    right = ((told[..., 1] == 1) | ~counted).all(1)
    return torch.stack([torch.ones_like(right), ~counted[:, 0], right], 1).double()


def _detail(labels: Sequence[str]) -> tuple[str, ...]:
    del labels
    return ("rows", "prompted", "whole")


def _metrics(matrix: Matrix, sums: Sums) -> dict[str, float]:
    """Accuracy of the next token, and perplexity: e to the mean loss of a token; with noise, of a row and then of rows.

    With prompts, and where metrics are exact, also the share of answers that were told from their first token to their last.
    """
    told = scores(matrix)
    if not told:
        return {}
    nats = min(max(sums[0] / told["examples"], 0.0), 2 * MOST_NATS)
    answers = {"whole_answers": sums[3] / sums[1]} if len(sums) > 1 and sums[2] > 0 else {}
    return {"accuracy": told["accuracy"], "perplexity": math.exp(nats), **answers, "examples": told["examples"]}


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """How a text goes on. ``tokens``: how many there are in ``continuation``."""

    text: str
    continuation: str
    tokens: int

    def document(self) -> dict[str, Json]:
        """Text, continuation and tokens."""
        return {"text": self.text, "continuation": self.continuation, "tokens": self.tokens}

    def lines(self) -> Sequence[Mapping[str, str]]:
        """One line."""
        return [{"text": plain(self.text), "continuation": plain(self.continuation), "tokens>": str(self.tokens)}]


def _predict(asked: Asked) -> list[Continuation]:
    """Each text as a row begins, or as a prompt, without an end; a base's own limit counts, not ``training.max_length``."""
    from fedrelease.models.continuing import continued

    tokenizer, end, found = cast(Any, asked.tokenizer), asked.tokenizer.eos_token_id, []
    for text in asked.texts:
        ids = _beginning(text, asked)
        after = continued(asked.model, ids, tokens=asked.tokens, end=end)
        words = tokenizer.decode(after, skip_special_tokens=True)
        found.append(Continuation(text=text, continuation=words, tokens=len(after)))
    return found


def _beginning(text: str, asked: Asked) -> list[int]:
    if asked.data.prompt is not None:
        return prompt_ids(text, asked.tokenizer, chat=asked.data.chat)
    ids = [*cast(Any, asked.tokenizer)(text, return_token_type_ids=False, verbose=False)["input_ids"]]
    return ids[:-1] if ids[-1:] == [asked.tokenizer.eos_token_id] and len(ids) > 1 else ids


CAUSAL_LM = Task(
    name="causal-lm",
    columns=("text",),
    read=_read,
    encode=_encode,
    build=_build,
    losses=_losses,
    judge=_judge,
    sums=("nats",),
    bound=MOST_NATS,
    detail=_detail,
    metrics=_metrics,
    predict=_predict,
    continues=True,
    opens_in_transformers=True,
    shown=("perplexity",),
    items_a_row="many",
    batch=8,
    skewed=False,
)
