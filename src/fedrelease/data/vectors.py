"""Rows that are vectors of numbers, such as the pixels of small images, in one safetensors file read through a memory map.

Example::

    save_rows(path, {"features": torch.zeros(20, 784), "labels": torch.zeros(20, dtype=torch.int64)})
    VectorRows(path).batch([0, 5]).features.shape        # (2, 784)
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedrelease.errors import DataError

__all__ = ["VectorBatch", "VectorRows"]


@dataclass(frozen=True, kw_only=True)
class VectorBatch:
    """Rows: ``features`` float32 [B, width], ``labels`` int64 [B].

    ``vectors``: float32 [B, n], what the frozen layers give for them, where the rows carry it.
    """

    features: Tensor
    labels: Tensor
    vectors: Tensor | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What a model is given."""
        return (self.features,) if self.vectors is None else (self.features, self.vectors)


class VectorRows:
    """The rows of one file, or some of them; the numbers stay on disk until a batch needs them."""

    def __init__(self, path: Path) -> None:
        """Map the file.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                self._features: Tensor = file.get_tensor("features")
                self.labels: Tensor = file.get_tensor("labels")
        except (SafetensorError, OSError) as error:
            hint = f"delete {path.parent.parent} and run again: it will be prepared anew"
            raise DataError(f"{path} cannot be read: {error}", value=str(path), hint=hint) from error
        self.path = path
        self._vectors: Tensor | None = None
        self._whole: VectorRows | None = None
        self._places = torch.arange(len(self.labels))
        self.lengths = torch.ones(len(self.labels), dtype=torch.int64)

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return int(self._features.shape[1])

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.labels)

    def carrying(self, vectors: Tensor) -> "VectorRows":
        """The same rows, whose batches carry ``vectors``: ``[all rows of the file, n]``."""
        rows = copy(self)
        rows._vectors = vectors
        return rows

    @property
    def whole(self) -> "VectorRows":
        """All rows of the file."""
        return self._whole or self

    def chosen(self, rows: Tensor) -> "VectorRows":
        """These rows only, int64, in this order; a row may come twice. What is carried, they carry."""
        few = copy(self)
        few._whole = self.whole
        few._places, few.labels, few.lengths = self._places[rows], self.labels[rows], self.lengths[rows]
        return few

    def batch(self, indices: Sequence[int] | Tensor) -> VectorBatch:
        """The rows of these indices, in this order.

        Raises:
            IndexError: there is no such row.
        """
        rows = torch.as_tensor(indices, dtype=torch.int64)
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(self)):
            raise IndexError(f"a row index lies between 0 and {len(self) - 1}")
        places = self._places[rows]
        carried = None if self._vectors is None else self._vectors[places]
        return VectorBatch(features=self._features[places], labels=self.labels[rows], vectors=carried)
