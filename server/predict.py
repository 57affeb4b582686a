"""Asking a released version about texts.

Example::

    predict(store.find("stable"), ["a warm and funny film"], cache=cache_folder())[0].document()   # {'label': 'positive', ...}
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from torch import Tensor

from fedrelease.data.row_files import open_rows
from fedrelease.data.tokens import Tokenizer, load_tokenizer, save_rows
from fedrelease.errors import ExperimentError, ModelError
from fedrelease.experiment import Data
from fedrelease.models.bases import Base
from fedrelease.models.classifier import TextClassifier
from fedrelease.models.evaluation import answers
from fedrelease.models.tasks import Classifier
from fedrelease.server.release import Release, experiment_of
from fedrelease.server.released_model import released_model, same_base
from fedrelease.tasks import TASKS
from fedrelease.tasks.contract import TAB, AnyBatch, Asked, Prediction, Task
from fedrelease.update import State

__all__ = ["predict", "text_model"]

MOST_TOKENS = 40


def predict(
    release: Release,
    texts: Sequence[str],
    *,
    cache: Path,
    tokens: int | None = None,
    separator: str | None = None,
    own: State | None = None,
) -> Sequence[Prediction]:
    """What a release says of texts, one after the other.

    Args:
        own: a site's own tensors, in the places of the release's.
        tokens: a language model continues each text by at most so many; left out = 40.
        separator: what lies between the two texts of a pair, where the release is asked about pairs; left out = a tab.

    Raises:
        ExperimentError: ``tokens`` is given to a release that continues no text, or is none; ``separator`` to one that takes no
            pairs, or is empty; or a text is no pair.
        ModelError: the base here is not the base of the release, or the release reads no texts.
        DamagedRelease: a file of the release changed.
    """
    manifest = release.manifest
    _check_continues(release, tokens)
    _check_pairs(release, separator)
    said = _says(release)
    base = same_base(release, cache)
    model, sees = released_model(release, base, own=own), base.reads_images
    return said(
        Asked(
            texts=texts,
            labels=manifest.task.labels,
            tokenizer=cast(Tokenizer, None if sees else load_tokenizer(base.folder)),
            max_length=manifest.task.max_length,
            run=lambda tensors: _run(model, tensors),
            model=model,
            tokens=tokens or MOST_TOKENS,
            pixels=base.pixels if sees else "",
            data=_data(release),
            separator=separator or TAB,
        )
    )


def _run(model: Classifier, tensors: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, AnyBatch, Tensor]]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "texts.safetensors"
        save_rows(path, tensors)
        yield from answers(model, open_rows(path))


def text_model(release: Release, *, cache: Path) -> tuple[TextClassifier, Base]:
    """The model that a release is, on its own base, and that base.

    Raises:
        ModelError: the base here is not the base of the release, or the release does not read texts.
        DamagedRelease: a file of the release changed.
    """
    _says(release)
    base = same_base(release, cache)
    model = released_model(release, base)
    if not isinstance(model, TextClassifier):
        what, rule = f"{release.version} does not read texts", "a release of texts is needed"
        raise ModelError(what, value=release.manifest.task.name, rule=rule, hint="name another release")
    return model, base


def _data(release: Release) -> Data:
    """How its rows were read; one that was made by hand may not say."""
    kept = any(file.path == "experiment.toml" for file in release.manifest.files)
    return experiment_of(release).data if kept else Data()


def _check_continues(release: Release, tokens: int | None) -> None:
    if tokens is None:
        return
    task = release.manifest.task.name
    if not TASKS[task].continues:
        what, rule = (
            "--tokens with a release that continues no text",
            f"--tokens is for releases of {_named(lambda one: one.continues)}",
        )
        raise ExperimentError(what, value=task, rule=rule, hint="leave it out")
    if tokens < 1:
        raise ExperimentError("no token is asked for", value=tokens, rule="--tokens is at least 1")


def _check_pairs(release: Release, separator: str | None) -> None:
    task = release.manifest.task.name
    if separator is not None and not TASKS[task].pairs:
        what, rule = (
            "--separator with a release that takes no pairs",
            "--separator is for releases of pair-classification",
        )
        raise ExperimentError(what, value=task, rule=rule, hint="leave it out")
    if separator == "":
        raise ExperimentError("nothing lies between two texts", value="", rule="--separator is a letter or more")


def _says(release: Release) -> Callable[[Asked], Sequence[Prediction]]:
    said = TASKS[release.manifest.task.name].predict
    if said is None:
        readers = _named(lambda one: one.predict is not None)
        raise ModelError(
            f"{release.version} predicts nothing",
            value=release.manifest.task.name,
            rule=f"predict is for releases of {readers}",
            hint="load the release's adapter.safetensors and run it on your rows",
        )
    return said


def _named(wanted: Callable[[Task], bool]) -> str:
    return ", ".join(sorted(name for name, task in TASKS.items() if wanted(task)))
