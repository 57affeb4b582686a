"""Tokenised rows in one safetensors file, read through a memory map and padded batch by batch.

Example::

    save_rows(path, tokenise(texts, labels, load_tokenizer(base_folder), 128))
    rows = TokenRows(path)
    batch = rows.batch([0, 5, 9])        # padded to the longest of these three
    batch.input_ids.shape                # (3, T)
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedrelease.errors import DataError, ExperimentError, ModelError

__all__ = [
    "IGNORED",
    "SHOWN",
    "Batch",
    "TokenRows",
    "Tokenizer",
    "check_length",
    "load_tokenizer",
    "row_tensors",
    "save_rows",
    "text_rows",
    "tokenise",
]

IGNORED = -100
"""The target of a token that nothing is to be said about; torch's own default."""

SHOWN = "shows_targets"
"""A tensor of this name, whatever it holds, says that a model is given the targets."""

_CHUNK = 4096
_NAMES = ("input_ids", "labels", "offsets", "pad_id")
_MORE = ("segments", "targets", "values")
"""What rows of some tasks have beside; by token, but for ``values``, which are by row."""


class Tokenizer(Protocol):
    """What we need of a ``transformers`` tokenizer."""

    pad_token_id: int | None
    eos_token_id: int | None
    model_max_length: int

    def __call__(
        self,
        text: list[str],
        *,
        truncation: bool,
        max_length: int,
        return_attention_mask: bool,
        return_token_type_ids: bool,
    ) -> Mapping[str, list[list[int]]]:
        """The token ids of every text."""
        ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows padded on the right to the longest of them.

    Attributes:
        input_ids: int64 [B, T].
        attention_mask: int64 [B, T], 1 for a token and 0 for padding.
        labels: int64 [B].
        targets: int64 [B, T], one a token, ``IGNORED`` at padding and wherever nothing is to be said; ``None`` where a row has a
            label only.
        shows_targets: whether a model is given the targets, to say something of these tokens alone.
        prefix: [B, T, width] in the base's precision: hidden states below the adapter, where the rows carry them; any value at
            padding.
        values: float32 [B, n], what numbers a row is to have and what else its task asks of it; ``None`` where a row has a label
            only.
        segments: int64 [B, T], 0 for tokens of a first text and 1 for those of a second, where the base tells them apart.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    targets: Tensor | None = None
    prefix: Tensor | None = None
    values: Tensor | None = None
    segments: Tensor | None = None
    shows_targets: bool = False

    @property
    def inputs(self) -> tuple[Tensor, Tensor, *tuple[Tensor | None, ...]]:
        """What a model is given."""
        if self.shows_targets and self.targets is not None:
            return self.input_ids, self.attention_mask, self.prefix, self.segments, self.targets
        if self.segments is None:
            return self.input_ids, self.attention_mask, self.prefix
        return self.input_ids, self.attention_mask, self.prefix, self.segments


class TokenRows:
    """The rows of one file, or some of them; the token ids stay on disk until a batch needs them."""

    def __init__(self, path: Path) -> None:
        """Map the file.

        Raises:
            DataError: it is missing, damaged, or was not written by :func:`save_rows`.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                ids, labels, offsets, pad_id = (file.get_tensor(name) for name in _NAMES)
                kept = set(file.keys())
                more = {name: file.get_tensor(name) for name in _MORE if name in kept}
        except (SafetensorError, OSError) as error:
            hint = f"delete {path.parent.parent} and run again: it will be prepared anew"
            raise DataError(f"{path} cannot be read: {error}", value=str(path), hint=hint) from error
        self._ids: Tensor = ids
        self._targets: Tensor | None = more.get("targets")
        self._segments: Tensor | None = more.get("segments")
        self._values: Tensor | None = more.get("values")
        self._shows_targets = SHOWN in kept
        self._starts: Tensor = offsets[:-1]
        self._pad_id = int(pad_id)
        self.path = path
        self.labels: Tensor = labels
        self.lengths: Tensor = offsets[1:] - offsets[:-1]
        self._hidden: Tensor | None = None
        self._whole: TokenRows | None = None

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.labels)

    def carrying(self, hidden: Tensor) -> "TokenRows":
        """The same rows, whose batches carry ``hidden``: ``[all tokens of the file, width]``, in the order of its rows."""
        rows = copy(self)
        rows._hidden = hidden
        return rows

    def chosen(self, rows: Tensor) -> "TokenRows":
        """These rows only, int64, in this order; a row may come twice. What is carried, they carry."""
        few = copy(self)
        few._starts, few.labels, few.lengths = self._starts[rows], self.labels[rows], self.lengths[rows]
        few._values = None if self._values is None else self._values[rows]
        few._whole = self.whole
        return few

    @property
    def whole(self) -> "TokenRows":
        """All rows of the file."""
        return self._whole or self

    @property
    def targets(self) -> Tensor | None:
        """The targets of these rows' tokens, row after row; ``None`` where a row has a label only."""
        return None if self._targets is None else self._targets[self.places(torch.arange(len(self)))].to(torch.int64)

    def places(self, rows: Tensor) -> Tensor:
        """Where the tokens of these rows lie in a tensor of all tokens, int64, row after row."""
        columns = torch.arange(int(self.lengths[rows].max()) if len(rows) else 1)
        return (self._starts[rows][:, None] + columns)[columns < self.lengths[rows][:, None]]

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """The rows of these indices, in this order; no index at all gives tensors with no row and one column.

        Raises:
            IndexError: there is no such row.
        """
        rows = torch.as_tensor(indices, dtype=torch.int64)
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(self)):
            raise IndexError(f"a row index lies between 0 and {len(self) - 1}")
        lengths = self.lengths[rows]
        columns = torch.arange(int(lengths.max()) if len(rows) else 1)
        mask = columns < lengths[:, None]
        places = torch.where(mask, self._starts[rows][:, None] + columns, 0)
        input_ids = torch.where(mask, self._ids[places], self._pad_id).to(torch.int64)
        return Batch(
            input_ids=input_ids,
            attention_mask=mask.to(torch.int64),
            labels=self.labels[rows],
            targets=None
            if self._targets is None
            else torch.where(mask, self._targets[places], IGNORED).to(torch.int64),
            prefix=None if self._hidden is None else self._hidden[places],
            values=None if self._values is None else self._values[rows],
            segments=None if self._segments is None else torch.where(mask, self._segments[places], 0).to(torch.int64),
            shows_targets=self._shows_targets,
        )


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a base in a local folder.

    Raises:
        ModelError: the folder holds none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        rule = "a base's folder holds its tokenizer's files"
        hint = "name another [model] base, or save the tokenizer there"
        raise ModelError(f"no tokenizer loads from {folder}", value=str(folder), rule=rule, hint=hint) from error
    return tokenizer


def tokenise(texts: Sequence[str], labels: Sequence[int], tokenizer: Tokenizer, max_length: int) -> dict[str, Tensor]:
    """Rows as flat tensors.

    Args:
        texts: not empty.
        labels: one a text.
        tokenizer: of the base.
        max_length: tokens after which a text is cut, special tokens included.

    Returns:
        ``input_ids`` int32 [all tokens], ``offsets`` int64 [rows + 1], ``labels`` int64 [rows], ``pad_id`` int64 [];
        row i is ``input_ids[offsets[i]:offsets[i + 1]]``.

    Raises:
        ExperimentError: the base cannot take ``max_length`` tokens.
        DataError: a text has no token at all.
    """
    check_length(tokenizer, max_length)
    starts = range(0, len(texts), _CHUNK)
    chunks = (_token_ids(list(texts[start : start + _CHUNK]), tokenizer, max_length) for start in starts)
    return row_tensors(chunks, labels, tokenizer)


def row_tensors(
    chunks: Iterable[Sequence[Sequence[int]]], labels: Sequence[int], tokenizer: Tokenizer
) -> dict[str, Tensor]:
    """Token ids of rows, many rows at a time, as the tensors of :func:`tokenise`.

    Raises:
        DataError: a row has no token at all.
    """
    ids: list[Tensor] = []
    lengths: list[int] = []
    for rows in chunks:
        lengths += [len(row) for row in rows]
        ids.append(torch.tensor([token for row in rows for token in row], dtype=torch.int32))
    if 0 in lengths:
        what = f"row {lengths.index(0) + 1} of a site has no token"
        raise DataError(what, rule="every text has at least one token", hint="remove texts of odd characters only")
    ends = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
    flat = torch.cat(ids) if ids else torch.zeros(0, dtype=torch.int32)
    label_tensor = torch.tensor(list(labels), dtype=torch.int64)
    return {"input_ids": flat, "offsets": ends, "labels": label_tensor, "pad_id": torch.tensor(_pad_id(tokenizer))}


@contextmanager
def text_rows(texts: Sequence[str], tokenizer: Tokenizer, max_length: int) -> Iterator["TokenRows"]:
    """Texts without labels as rows, for as long as the block runs."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "texts.safetensors"
        save_rows(path, tokenise(texts, [0] * len(texts), tokenizer, max_length))
        yield TokenRows(path)


def _token_ids(texts: list[str], tokenizer: Tokenizer, max_length: int) -> list[list[int]]:
    encoded = tokenizer(
        texts, truncation=True, max_length=max_length, return_attention_mask=False, return_token_type_ids=False
    )
    return encoded["input_ids"]


def check_length(tokenizer: Tokenizer, max_length: int) -> None:
    """Refuse texts that are longer than the base can take.

    Raises:
        ExperimentError: it is.
    """
    if max_length > tokenizer.model_max_length:
        rule = f"training.max_length is at most the base's own limit, {tokenizer.model_max_length}"
        raise ExperimentError(
            "training.max_length is too long for the base", value=max_length, rule=rule, hint="lower it"
        )


def _pad_id(tokenizer: Tokenizer) -> int:
    """The padding token, or any other: the attention mask hides it."""
    if tokenizer.pad_token_id is not None:
        return tokenizer.pad_token_id
    return tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0


def save_rows(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors of :func:`tokenise` as one safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), os.fspath(path))
