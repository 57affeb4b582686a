"""Writing one text for another, such as a summary. An item is a token of the target; it is ``right`` or ``wrong``.

A target's tokens are told one by one, each after the true ones before it. Beside that, where metrics are exact, the model writes
for the first few rows of a hold-out by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from fedrelease.data.cells import Cells, Example
from fedrelease.data.row_files import Rows, token_rows
from fedrelease.data.source_target import source_ids, tokenise_pairs
from fedrelease.data.tokens import IGNORED, Tokenizer
from fedrelease.experiment import Data, Model
from fedrelease.experiment_sections import RIGHT
from fedrelease.files import Json
from fedrelease.models.metrics import Matrix
from fedrelease.tasks.causal_lm import CAUSAL_LM
from fedrelease.tasks.contract import Asked, Sums
from fedrelease.tasks.overlap import rouge_l
from fedrelease.wording import plain

__all__ = ["SEQ2SEQ", "Written"]

MOST_WRITTEN = 8
"""Rows of a hold-out for which the model writes by itself: each token is a look of its own."""
LONGER = 8
"""Tokens that it may write beyond what was wanted."""
WRITES = ("written", "rouge")


def _read(cells: Cells, data: Data) -> Example:
    source, target = cells.text(data.text), cells.text(data.target)
    return Example(text=f"{source}\n{target}", label=RIGHT, content=[source, target])


def _encode(
    examples: Sequence[Example], labels: Sequence[str], tokenizer: Tokenizer, max_length: int
) -> dict[str, Tensor]:
    del labels
    pairs = [cast(tuple[str, str], tuple(cast(list[str], one.content))) for one in examples]
    return tokenise_pairs(pairs, RIGHT, tokenizer, max_length)


def _build(base: Any, model: Model, *, seed: int) -> Any:
    from fedrelease.models.sequences import build_sequence_model

    return build_sequence_model(base, model, seed=seed)


def _write(model: Any, rows: Rows) -> Tensor:
    """Of each row whether the model wrote for it, and the ROUGE-L of what it wrote, float64 ``[rows, 2]``."""
    from fedrelease.models.sequences import written

    found, texts = torch.zeros(len(rows), len(WRITES), dtype=torch.float64), token_rows(rows)
    for row in range(min(MOST_WRITTEN, len(rows))):
        batch = texts.batch([row])
        targets = cast(Tensor, batch.targets)[0]
        source, wanted = batch.input_ids[0][targets == IGNORED].tolist(), targets[targets != IGNORED].tolist()
        said = written(model, source, tokens=len(wanted) + LONGER, end=model.end)
        found[row] = torch.tensor([1.0, rouge_l(said, [token for token in wanted if token != model.end])])
    return found


def _detail(labels: Sequence[str]) -> tuple[str, ...]:
    return (*CAUSAL_LM.detail(labels), *WRITES)


def _metrics(matrix: Matrix, sums: Sums) -> dict[str, float]:
    """As of the next token; where the model wrote by itself, ``rouge_l`` too, the mean of these few rows."""
    told = CAUSAL_LM.metrics(matrix, sums[: -len(WRITES)] if len(sums) > len(WRITES) else sums)
    there, rouge = sums[-len(WRITES) :] if len(sums) > len(WRITES) else (0.0, 0.0)
    return {**told, "rouge_l": rouge / there} if told and there > 0 else told


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written for a text. ``tokens``: how many."""

    text: str
    target: str
    tokens: int

    def document(self) -> dict[str, Json]:
        """Text, target and tokens."""
        return {"text": self.text, "target": self.target, "tokens": self.tokens}

    def lines(self) -> Sequence[Mapping[str, str]]:
        """One line."""
        return [{"text": plain(self.text), "target": plain(self.target), "tokens>": str(self.tokens)}]


def _predict(asked: Asked) -> list[Written]:
    """By the most likely token each time."""
    from fedrelease.models.sequences import written

    found = []
    for text in asked.texts:
        ids = source_ids(text, asked.tokenizer, asked.max_length)
        after = written(asked.model, ids, tokens=asked.tokens, end=asked.tokenizer.eos_token_id)
        words = cast(Any, asked.tokenizer).decode(after, skip_special_tokens=True)
        found.append(Written(text=text, target=words, tokens=len(after)))
    return found


SEQ2SEQ = replace(
    CAUSAL_LM,
    name="seq2seq",
    columns=("text", "target"),
    read=_read,
    encode=_encode,
    build=_build,
    detail=_detail,
    metrics=_metrics,
    write=_write,
    predict=_predict,
    shown=("perplexity", "rouge_l"),
)
