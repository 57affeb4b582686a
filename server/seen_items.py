"""What sites and server saw of a candidate, as gates compare it: item by item, or accuracies with the noise of privacy.

Example::

    items = items_of(evaluated.items, labels=("ham", "spam"))          # None where nobody told any
    scores = scores_of(evaluated.answers, experiment)                  # None where items, or nothing, was told
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fedrelease import facts
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import to_document
from fedrelease.files import Json, canonical_bytes, digest_bytes
from fedrelease.item_outcomes import Outcomes
from fedrelease.messages import Answer
from fedrelease.server.gates.items import Items
from fedrelease.server.gates.subject import SiteScores
from fedrelease.tasks import TASKS

__all__ = ["EARLIER_SCORES", "ITEMS", "SCORES", "items_of", "read_scores", "scores_bytes", "scores_of"]

ITEMS = "items.safetensors"
SCORES = "scores.json"
EARLIER_SCORES = "scores-of-"
"""What the name of a file with scores on fewer labels begins with; it goes on with their number."""


def items_of(told: Mapping[str, Outcomes], *, labels: Sequence[str]) -> Items | None:
    """All outcomes as one set, in the order of the names of those who told them."""
    if not told:
        return None
    names = sorted(told)
    parts = {label: {name: told[name].parts[label] for name in names if label in told[name].parts} for label in labels}
    truth = [place for name in names for place in told[name].truth]
    identity: dict[str, Json] = {"parts": dict(parts), "truth": truth, "rows": {n: len(told[n].truth) for n in names}}
    return Items(
        evaluation=digest_bytes(canonical_bytes(identity)),
        labels=tuple(labels),
        truth=np.array(truth, dtype=np.int64),
        predicted=np.array([place for name in names for place in told[name].predicted], dtype=np.int64),
        loss=np.array([nats for name in names for nats in told[name].loss], dtype=np.float32),
        group=tuple(name for name in names for _ in told[name].truth),
        parts={label: digest_bytes(canonical_bytes(dict(part))) for label, part in parts.items() if part},
    )


def scores_of(
    answers: Mapping[str, Answer], experiment: Experiment, *, labels: Sequence[str] | None = None
) -> SiteScores | None:
    """Accuracies of the sites that told a confusion matrix with noise; None where none did.

    With ``labels`` those on the rows of these labels only, which are the first ones of the matrix: what a release that knew no
    others is compared on.
    """
    noised = {site: answer for site, answer in sorted(answers.items()) if answer.confusion and answer.receipt}
    known = experiment.model.labels if labels is None else labels
    task = TASKS[experiment.model.task]
    answers_known = len(task.answers(known))
    rows = {site: (answer.confusion or ())[:answers_known] for site, answer in noised.items()}
    totals = {site: sum(map(sum, found)) for site, found in rows.items()}
    usable = {site: total for site, total in totals.items() if total > 0}
    if not usable:
        return None
    right = {site: sum(row[place] for place, row in enumerate(rows[site])) for site in usable}
    accuracy = {site: right[site] / total for site, total in usable.items()}
    return SiteScores(
        evaluation=_identity(experiment, known),
        accuracy=accuracy,
        examples=usable,
        noise={
            site: _noise(noised[site], accuracy[site], total, answers_known, moved=task.sensitivity)
            for site, total in usable.items()
        },
    )


def _noise(answer: Answer, accuracy: float, total: float, rows: int, *, moved: float) -> float:
    """Standard deviation of right / total, to first order: each count has noise of its own, and one a row is right.

    ``moved``: how far one row moves what is told, which the noise is in proportion to.

    d(right / total) = (d right - accuracy * d total) / total, where the right ones are in both.
    """
    sigma, counts = answer.receipt.noise_multiplier if answer.receipt else 0.0, rows * len(answer.confusion or ())
    sigma *= moved
    return sigma * math.sqrt(rows * (1 - accuracy) ** 2 + (counts - rows) * accuracy**2) / total


def _identity(experiment: Experiment, labels: Sequence[str]) -> str:
    """Which rows are held out follows from these keys, and from the labels that were known."""
    document = to_document(experiment)
    seed = experiment.federation.seed
    return digest_bytes(canonical_bytes({"data": document["data"], "seed": seed, "labels": [*labels]}))


def scores_bytes(scores: SiteScores) -> bytes:
    """Canonical JSON."""
    return facts.to_bytes(scores)


def read_scores(data: bytes) -> SiteScores:
    """The scores behind ``data``.

    Raises:
        DamagedRelease: it is not what :func:`scores_bytes` writes.
    """
    return facts.from_bytes(SiteScores, data)
