"""Asking a released version about texts.

Example::

    predict(store.find("stable"), ["a warm and funny film"], cache=cache_folder())[0].label      # 'positive'
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from fedrelease.data.tokens import load_tokenizer, text_rows
from fedrelease.errors import ModelError
from fedrelease.models.bases import Base
from fedrelease.models.classifier import TextClassifier
from fedrelease.models.evaluation import predict_logits
from fedrelease.server.release import Release
from fedrelease.server.released_model import released_model, same_base

__all__ = ["Prediction", "predict", "text_model"]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most likely label of a text, and its probability by the model's own softmax (not calibrated)."""

    text: str
    label: str
    score: float


def predict(release: Release, texts: Sequence[str], *, cache: Path) -> list[Prediction]:
    """Label texts with a release.

    Raises:
        ModelError: the base here is not the base of the release.
        DamagedRelease: a file of the release changed.
    """
    manifest = release.manifest
    model, base = text_model(release, cache=cache)
    with text_rows(texts, load_tokenizer(base.folder), manifest.task.max_length) as rows:
        shares = torch.softmax(predict_logits(model, rows), dim=1)
    best = shares.max(dim=1)
    return [
        Prediction(text=text, label=manifest.task.labels[int(index)], score=round(float(score), 6))
        for text, score, index in zip(texts, best.values, best.indices, strict=True)
    ]


def text_model(release: Release, *, cache: Path) -> tuple[TextClassifier, Base]:
    """The model that a release is, on its own base, and that base.

    Raises:
        ModelError: the base here is not the base of the release, or the release does not read texts.
        DamagedRelease: a file of the release changed.
    """
    _check_reads_texts(release)
    base = same_base(release, cache)
    return cast(TextClassifier, released_model(release, base)), base


def _check_reads_texts(release: Release) -> None:
    if release.manifest.task.name != "text-classification":
        raise ModelError(
            f"{release.version} does not read texts",
            value=release.manifest.task.name,
            rule="predict labels texts, with a release of text-classification",
            hint="load the release's adapter.safetensors and run it on your rows",
        )
