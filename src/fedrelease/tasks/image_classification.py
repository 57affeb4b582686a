"""One label for an image. An item is an image; rows come as numbers, not as texts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from fedrelease.data.cells import Example
from fedrelease.data.tokens import Tokenizer
from fedrelease.errors import DataError
from fedrelease.experiment import Model
from fedrelease.tasks.contract import Asked
from fedrelease.tasks.text_classification import TEXT_CLASSIFICATION, LabelPrediction, likeliest

__all__ = ["IMAGE_CLASSIFICATION"]


def _encode(examples: Sequence[Example], labels: Sequence[str], tokenizer: Tokenizer, max_length: int) -> NoReturn:
    del labels, tokenizer, max_length
    raise DataError(
        "these rows are no images",
        value=f"{len(examples)} texts",
        rule="image-classification trains on images",
        hint='set [data] source = "digits", or [model] task = "text-classification"',
    )


def _build(base: Any, model: Model, *, seed: int) -> Any:
    from fedrelease.models.images import build_image_model

    return build_image_model(base, model, seed=seed)


def _predict(asked: Asked) -> list[LabelPrediction]:
    """What is given are names of image files."""
    from fedrelease.data.image_folders import read_image

    features = torch.stack([read_image(Path(name).expanduser(), asked.pixels) for name in asked.texts])
    return likeliest(asked, {"features": features, "labels": torch.zeros(len(features), dtype=torch.int64)})


IMAGE_CLASSIFICATION = replace(
    TEXT_CLASSIFICATION,
    name="image-classification",
    encode=_encode,
    build=_build,
    predict=_predict,
    opens_in_transformers=False,
    reads="images",
)
