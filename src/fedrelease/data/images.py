"""Small images that come with an installed library, as rows of pixels.

Example::

    features, labels = IMAGES["digits"]()        # float32 [1797, 784] between 0 and 1, and the digit of each
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from fedrelease.data.rows import RawRow, Sheet
from fedrelease.files import digest_bytes

__all__ = ["IMAGES", "image_labels", "image_sheet"]

SIDE = 28
Images: TypeAlias = tuple[Tensor, Tensor]


@cache
def _digits() -> Images:
    """1,797 handwritten digits, 8 x 8 pixels, stretched to 28 x 28. Source: Alpaydin and Kaynak (1998), UCI, in scikit-learn."""
    from sklearn.datasets import load_digits

    found = load_digits()
    small = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    large = functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return large.flatten(1).contiguous(), torch.tensor(found.target, dtype=torch.int64)


IMAGES: Mapping[str, Callable[[], Images]] = {"digits": _digits}


def image_labels(alias: str) -> Sequence[str]:
    """The classes of a source, in order."""
    return [str(number) for number in range(int(IMAGES[alias]()[1].max()) + 1)]


def image_sheet(alias: str) -> Sheet:
    """A source as a sheet: the text of a row is the sha256 of its pixels, so that equal images are treated alike."""
    features, labels = IMAGES[alias]()
    texts = [digest_bytes(row.numpy().tobytes()) for row in features]
    rows = (
        RawRow(line=line, values={"text": text, "label": str(int(label))})
        for line, (text, label) in enumerate(zip(texts, labels, strict=True), start=1)
    )
    return Sheet(name=alias, place="row", columns=("text", "label"), rows=rows)
