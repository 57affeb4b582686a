"""A few rows of a task, made on the spot: to see what a base and an adapter can do before anybody's rows are touched.

Example::

    with sample_rows(TASKS["causal-lm"], base, labels=("wrong", "right")) as rows:
        model(*rows.batch([0, 1]).inputs)
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from fedrelease.data.cells import BadRow, Cells, Example
from fedrelease.data.row_files import Rows, open_rows
from fedrelease.data.rows import RawRow
from fedrelease.data.tokens import load_tokenizer, save_rows
from fedrelease.errors import DataError
from fedrelease.experiment import Data
from fedrelease.models.bases import Base
from fedrelease.tasks.contract import Task

__all__ = ["sample_rows"]

MOST_TOKENS = 32
KEYS = {one.name for one in fields(Data)}


@contextmanager
def sample_rows(task: Task, base: Base, *, labels: Sequence[str]) -> Iterator[Rows]:
    """The rows of ``Task.sample`` as the base reads them, or images of random pixels, for as long as the block runs.

    Raises:
        DataError: the task does not read its own sample.
        ModelError: the base has no tokenizer.
    """
    tensors = _images(base, len(task.sample.rows)) if task.reads == "images" else _texts(task, base, labels)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "sample.safetensors"
        save_rows(path, tensors)
        yield open_rows(path)


def _images(base: Base, count: int) -> dict[str, Tensor]:
    pixels = torch.rand(count, base.row_width, generator=torch.Generator().manual_seed(0))
    return {"features": pixels, "labels": torch.arange(count) % 2}


def _texts(task: Task, base: Base, labels: Sequence[str]) -> dict[str, Tensor]:
    examples = [_example(task, place, labels) for place in range(len(task.sample.rows))]
    return task.encode(examples, labels, load_tokenizer(base.folder), MOST_TOKENS)


def _example(task: Task, place: int, labels: Sequence[str]) -> Example:
    cells, data = task.sample.rows[place], task.sample.data
    other = task.sample.rows[place - 1]["text"]  # of pairs, and of a text that another one answers
    values = {str(getattr(data, key)): cells.get(key, other) for key in task.columns if key in KEYS}
    try:
        return task.read(Cells(row=RawRow(line=place + 1, values=values), labels=labels), data)
    except BadRow as error:
        raise DataError(
            f"{task.name} does not read its own sample: row {place + 1}: {error}",
            value=_shown(cells),
            rule="Sample.rows has cells by key of [data], and labels by their places",
        ) from error


def _shown(cells: Mapping[str, object]) -> str:
    return ", ".join(f"{key} = {value!r}" for key, value in cells.items())
