"""Built-in images, as rows of pixels: some come with an installed library, others are fetched.

Example::

    features, labels = IMAGES["digits"].read(cache_folder())      # float32 [1797, 784] between 0 and 1, the digit of each
"""

import csv
import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as kept
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from fedrelease.data.rows import RawRow, Sheet
from fedrelease.files import digest_bytes

__all__ = ["IMAGES", "ImageSource", "Images", "image_sheet"]

SIDE = 28
Images: TypeAlias = tuple[Tensor, Tensor]
DIGITS = tuple(str(number) for number in range(10))


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """A built-in source of images.

    Attributes:
        labels: its classes, in order.
        pixels: channels x height x width.
        read: pixels and classes; of a source in the catalogue, from its fetched folder.
        fetched: whether it is in the catalogue.
    """

    labels: tuple[str, ...]
    pixels: str
    read: Callable[[Path], Images]
    fetched: bool


@kept
def _digits(folder: Path) -> Images:
    """1,797 handwritten digits, 8 x 8 pixels, stretched to 28 x 28. Source: Alpaydin and Kaynak (1998), UCI, in scikit-learn."""
    from sklearn.datasets import load_digits

    del folder
    found = load_digits()
    small = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    large = functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return large.flatten(1).contiguous(), torch.tensor(found.target, dtype=torch.int64)


def _mnist(folder: Path) -> Images:
    """5,000 handwritten digits of MNIST, 500 of each: 784 grey values from 0 to 255 a line, then the digit."""
    with gzip.open(folder / "mnist_5k.csv.gz", "rt", encoding="ascii", newline="") as file:
        rows = torch.tensor([[int(float(cell)) for cell in row] for row in csv.reader(file)])
    return rows[:, :-1].float() / 255, rows[:, -1]


IMAGES: Mapping[str, ImageSource] = {
    "digits": ImageSource(labels=DIGITS, pixels=f"1x{SIDE}x{SIDE}", read=_digits, fetched=False),
    "mnist-5k": ImageSource(labels=DIGITS, pixels=f"1x{SIDE}x{SIDE}", read=_mnist, fetched=True),
}


def image_sheet(name: str, images: Images, labels: Sequence[str], **columns: Sequence[str]) -> Sheet:
    """Images as a sheet: the text of a row is the sha256 of its pixels, so that equal images are treated alike."""
    features, places = images
    values = [digest_bytes(row.numpy().tobytes()) for row in features], [labels[place] for place in places.tolist()]
    names = ("text", "label", *columns)
    rows = (
        RawRow(line=line, values=dict(zip(names, row, strict=True)))
        for line, row in enumerate(zip(*values, *columns.values(), strict=True), start=1)
    )
    return Sheet(name=name, place="row", columns=names, rows=rows)
