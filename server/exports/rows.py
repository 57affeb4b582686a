"""The rows that an export is checked on: those that somebody names, else the server's own hold-out, else made-up ones.

Example::

    with check_rows(plain, experiment, file=Path("rows.csv"), cache=cache_folder()) as rows:
        rows.source, len(rows.rows), rows.labelled           # ('rows.csv', 400, True)
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from fedrelease.data.pairs import tokenise_pairs
from fedrelease.data.row_files import Rows, open_rows
from fedrelease.data.sites import find_prepared
from fedrelease.data.sources import load_table
from fedrelease.data.tokens import load_tokenizer, save_rows, tokenise
from fedrelease.errors import DataError, ExperimentError
from fedrelease.experiment import Data, Experiment, Partition
from fedrelease.server.exports.plain import Plain
from fedrelease.tasks import TASKS

__all__ = ["CheckRows", "check_rows"]

MADE_UP = 200
WORDS = (
    *("the", "a", "this", "it", "we", "they", "and", "but", "with", "for", "on", "was", "is", "will", "never", "very"),
    *("good", "bad", "warm", "cold", "great", "awful", "free", "late", "new", "old", "cheap", "quick", "slow", "plain"),
    *("film", "book", "phone", "price", "story", "people", "city", "team", "game", "music", "market", "law", "food"),
    *("won", "lost", "said", "called", "bought", "asked", "wrote", "sent", "found", "ended", "!", "?", ",", "."),
)


@dataclass(frozen=True, kw_only=True)
class CheckRows:
    """Rows and where they are from; without labels they tell only whether two models agree."""

    rows: Rows
    labelled: bool
    source: str


@contextmanager
def check_rows(plain: Plain, experiment: Experiment, *, file: Path | None, cache: Path) -> Iterator[CheckRows]:
    """Rows for as long as the block runs.

    Raises:
        DataError: the file cannot be used.
        ExperimentError: a file of texts, and a release that reads none.
    """
    if file is not None:
        with _from_file(plain, experiment.data, file, cache) as rows:
            yield CheckRows(rows=rows, labelled=True, source=file.name)
        return
    prepared = find_prepared(experiment, tokenizer_digest=plain.base.tokenizer_digest, cache=cache)
    if prepared is not None and prepared.server_holdout is not None:
        yield CheckRows(rows=open_rows(prepared.server_holdout), labelled=True, source="the server's hold-out")
        return
    with _made_up(plain) as invented:
        yield CheckRows(rows=invented, labelled=False, source="made up")


@contextmanager
def _from_file(plain: Plain, asked: Data, file: Path, cache: Path) -> Iterator[Rows]:
    if plain.max_length is None:
        rule, hint = "rows of a file are texts, and this release reads images", "leave --rows out"
        raise ExperimentError("--rows does not fit the release", value=str(file), rule=rule, hint=hint)
    if not file.is_file():
        hint = "name a .csv, .jsonl or .parquet file with columns text and label"
        raise DataError(f"{file} does not exist", value=str(file), hint=hint)
    data, tokenizer = Data(source=str(file), partition=Partition(by="iid")), load_tokenizer(plain.base.folder)
    data = replace(data, text_pair=asked.text_pair, range=asked.range, tolerance=asked.tolerance)
    table = load_table(data, plain.labels, cache=cache, task=plain.task)
    with _kept(TASKS[plain.task].encode(table.examples, plain.labels, tokenizer, plain.max_length)) as rows:
        yield rows


@contextmanager
def _made_up(plain: Plain) -> Iterator[Rows]:
    """Texts of 1 to 60 words, or rows of numbers between 0 and 1; the same ones every time."""
    if plain.max_length is not None:
        numbers = random.Random(0)
        texts = [" ".join(numbers.choices(WORDS, k=1 + place * 60 // MADE_UP)) for place in range(MADE_UP)]
        tokenizer = load_tokenizer(plain.base.folder)
        if TASKS[plain.task].pairs:
            encoded = tokenise_pairs(
                list(zip(texts, texts[::-1], strict=True)), [0] * MADE_UP, tokenizer, plain.max_length
            )
        else:
            encoded = tokenise(texts, [0] * MADE_UP, tokenizer, plain.max_length)
        with _kept(encoded) as rows:
            yield rows
        return
    features = torch.rand(MADE_UP, plain.base.row_width, generator=torch.Generator().manual_seed(0))
    with _kept({"features": features, "labels": torch.zeros(MADE_UP, dtype=torch.int64)}) as rows:
        yield rows


@contextmanager
def _kept(encoded: Mapping[str, Tensor]) -> Iterator[Rows]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.safetensors"
        save_rows(path, encoded)
        yield open_rows(path)
