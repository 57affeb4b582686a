"""What answering takes on this machine: releases answer the same texts in turns, one text at a time; memory in a process each.

Example::

    measured = measure([candidate, stable], texts, cache=cache_folder())
    measured["0.1.3"].seconds, measured["0.1.3"].memory_bytes
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

import psutil

from fedrelease.data.sources import load_table
from fedrelease.data.tokens import load_tokenizer, text_rows
from fedrelease.errors import DataError, FedreleaseError
from fedrelease.models.evaluation import answers
from fedrelease.server.judging import Measured
from fedrelease.server.predict import text_model
from fedrelease.server.release import Release, experiment_of, load
from fedrelease.server.turns import in_turns

__all__ = ["measure", "peak_memory", "seconds_in_turns", "texts_of"]

TURNS = 40
"""Timed answers of each release, each of one text."""


def measure(releases: Sequence[Release], texts: Sequence[str], *, cache: Path) -> dict[str, Measured]:
    """Seconds of single answers and peak memory, by version. Numbers are of this machine and differ from run to run.

    Raises:
        ModelError: a release's base is not here, or it does not read texts.
    """
    every = {release.version: release for release in releases}
    seconds = seconds_in_turns(list(every.values()), texts, cache=cache)
    return {
        version: Measured(
            seconds=tuple(seconds[version]), memory_bytes=peak_memory(release, texts[:TURNS], cache=cache)
        )
        for version, release in every.items()
    }


def peak_memory(release: Release, texts: Sequence[str], *, cache: Path) -> int:
    """Bytes: the peak of a process of its own that loads the release and answers."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        return alone.submit(_peak, release.root, release.version, tuple(texts), cache).result()


def texts_of(release: Release, *, cache: Path, most: int = TURNS) -> tuple[str, ...]:
    """Texts of the source that the release's experiment names, where this machine has it; evenly spread over it.

    Raises:
        DataError: it has not.
    """
    experiment = experiment_of(release)
    try:
        texts = load_table(
            experiment.data, experiment.model.labels, cache=cache, task=experiment.model.task, fetch_missing=False
        ).texts
    except FedreleaseError as error:
        raise DataError(
            f"the texts of {release.version} are not on this machine",
            value=experiment.data.source,
            rule="answers are timed on real texts",
            hint="--texts FILE with one text a line",
        ) from error
    return texts[:: max(1, len(texts) // most)][:most]


def seconds_in_turns(
    releases: Sequence[Release], texts: Sequence[str], *, cache: Path, turns: int = TURNS
) -> dict[str, list[float]]:
    """Seconds of ``turns`` single answers, by version: all releases answer the same text before the next one comes."""
    with ExitStack() as rooms:
        answers = [_ready(release, texts, cache, rooms) for release in releases]
        taken = in_turns(answers, turns=turns)
    return {release.version: seconds for release, seconds in zip(releases, taken, strict=True)}


def _ready(release: Release, texts: Sequence[str], cache: Path, rooms: ExitStack) -> Callable[[int], object]:
    model, base = text_model(release, cache=cache)
    tokenizer, longest = load_tokenizer(base.folder), release.manifest.task.max_length
    rows = [rooms.enter_context(text_rows([text], tokenizer, longest)) for text in texts]
    return lambda turn: list(answers(model, rows[turn % len(rows)]))


def _peak(root: Path, version: str, texts: tuple[str, ...], cache: Path) -> int:
    """Bytes, of the process that this runs in; where the system does not tell its peak, what it holds at the end."""
    seconds_in_turns([load(root, version)], texts, cache=cache, turns=len(texts))
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    peak = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
    return 1024 * peak if peak is not None else int(psutil.Process().memory_info().rss)
