"""A file of rows, whatever kind they are of.

Example::

    rows = open_rows(folder / "train.safetensors")       # TokenRows or VectorRows
    model(*rows.batch([0, 1]).inputs)
"""

from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open

from fedrelease.data.tokens import TokenRows
from fedrelease.data.vectors import VectorRows
from fedrelease.errors import DataError

__all__ = ["Rows", "of_labels", "open_rows", "token_rows"]

Rows: TypeAlias = TokenRows | VectorRows


def open_rows(path: Path) -> Rows:
    """Map the rows of a file.

    Raises:
        DataError: it is missing, damaged, or holds no rows.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            vectors = "features" in file.keys()  # noqa: SIM118  # safetensors' handle is no mapping
    except (SafetensorError, OSError):
        vectors = False  # the reader below says what is wrong
    return VectorRows(path) if vectors else TokenRows(path)


def of_labels(rows: Rows, count: int) -> Rows:
    """The rows of the first ``count`` labels, in their order; ``rows`` itself when that is all of them."""
    known = torch.as_tensor(rows.labels) < count
    return rows if bool(known.all()) else rows.chosen(known.nonzero().flatten())


def token_rows(rows: Rows) -> TokenRows:
    """The same rows, which must be texts.

    Raises:
        DataError: they are not.
    """
    if not isinstance(rows, TokenRows):
        raise DataError("these rows are no texts", value=str(rows.path), rule="rows of token ids are needed here")
    return rows
