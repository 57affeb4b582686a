"""Asking a released version about texts.

Example::

    predict(store.find("stable"), ["a warm and funny film"], cache=cache_folder())[0].label      # 'positive'
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fedrelease.data.tokens import load_tokenizer, text_rows
from fedrelease.errors import ModelError
from fedrelease.experiment_file import load_experiment
from fedrelease.models.bases import Base, open_base
from fedrelease.models.classifier import TextClassifier, load_state
from fedrelease.models.evaluation import predict_logits
from fedrelease.models.tasks import build_model
from fedrelease.server.release import Release

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
    experiment = load_experiment(None, text=release.read("experiment.toml").decode())
    base = _same_base(release, cache)
    known = experiment.model.with_labels(len(release.manifest.task.labels))
    model = build_model(base, known, seed=experiment.federation.seed)
    if not isinstance(model, TextClassifier):
        raise ModelError(
            f"{release.version} does not read texts",
            value=experiment.model.task,
            rule="predict labels texts, with a release of text-classification",
            hint="load the release's adapter.safetensors and run it on your rows",
        )
    load_state(model, release.state())
    return model, base


def _same_base(release: Release, cache: Path) -> Base:
    wanted = release.manifest.base
    base = open_base(wanted.ref, cache=cache)
    if dict(base.files) != dict(wanted.files):
        changed = sorted(
            name for name in {*base.files, *wanted.files} if base.files.get(name) != wanted.files.get(name)
        )
        raise ModelError(
            f"the base {wanted.ref} here is not the one that {release.version} was trained on",
            value=changed,
            rule="an adapter is used with its own base only: the same files, digest by digest",
            hint="fetch the base anew, or put the files of the release's base into that folder",
        )
    return base
