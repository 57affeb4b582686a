"""A site's rows as a phase sees them, where phases add labels: all are prepared once, and a round uses those of its labels.

Example::

    data = rows_of(site.data, request)                    # training and hold-out rows of the request's labels
    now, others = stretches(data, experiment, round=7)    # how much is trained with these rows, and with those of other phases
"""

from collections.abc import Sequence
from itertools import groupby

from fedrelease.client.schedule import steps_per_round
from fedrelease.data.sites import SiteData
from fedrelease.errors import DataError
from fedrelease.experiment import Experiment
from fedrelease.messages import Request
from fedrelease.privacy import Stretch

__all__ = ["check_rows", "rows_of", "steps_before", "steps_in_all", "stretches"]


def rows_of(data: SiteData, request: Request) -> SiteData:
    """The site with the rows of the request's labels; the same data again changes nothing.

    Raises:
        DataError: the rows were prepared for other labels, or for fewer than are asked for.
    """
    _check_labels(data, request)
    return data.with_labels(len(request.labels))


def _check_labels(data: SiteData, request: Request) -> None:
    """Refuse labels in another order; and fewer than this round has, or with privacy than the plan, whose noise is for all."""
    known, private = request.experiment.model.labels, request.experiment.privacy.unit != "none"
    if data.labels != known[: len(data.labels)]:
        raise DataError(
            f"the data of {data.name} was prepared for other labels",
            value=list(data.labels),
            rule=f"model.labels, in this order: {list(known)}",
            hint="prepare the site's data again for this experiment",
        )
    wanted = known if private else request.labels
    if missing := wanted[len(data.labels) :]:
        raise DataError(
            f"the data of {data.name} was prepared without {', '.join(missing)}",
            value=list(data.labels),
            rule=f"{'the plan' if private else request.version} has the labels {', '.join(wanted)}",
            hint="prepare the site's data again for this experiment, with rows of these labels if the site has any",
        )


def check_rows(data: SiteData, request: Request) -> None:
    """Refuse to train without a row.

    Raises:
        DataError: none of the site's rows has a label of this round.
    """
    if not len(data.train):
        raise DataError(
            f"{data.name} has nothing to train on",
            value=list(request.labels),
            rule=f"a site that trains {request.version} has a row of one of its labels",
            hint="it can take part as soon as a phase has a label of its rows; phase.sites names those that are asked until then",
        )


def _in_order(data: SiteData, experiment: Experiment) -> tuple[Stretch, ...]:
    """Runs of rounds with the same labels, in the order of the plan."""
    phases = zip(experiment.phase_labels, experiment.phases, strict=True)
    runs = [
        (labels, sum(phase.rounds for _, phase in run)) for labels, run in groupby(phases, key=lambda pair: pair[0])
    ]
    return tuple(_stretch(data, experiment, labels, rounds) for labels, rounds in runs)


def _stretch(data: SiteData, experiment: Experiment, labels: Sequence[str], rounds: int) -> Stretch:
    rows = sum(data.label_counts.get(label, 0) for label in labels)
    private = experiment.privacy.unit != "none"
    return Stretch(rows, steps_per_round(rows, experiment.training, private=private) if rows else 0, rounds)


def stretches(data: SiteData, experiment: Experiment, *, round: int) -> tuple[Stretch, tuple[Stretch, ...]]:
    """The stretch of the plan that ``round`` lies in, and all others. Round 0 counts as the first stretch's."""
    found, place = _in_order(data, experiment), 0
    while place < len(found) - 1 and round > sum(stretch.rounds for stretch in found[: place + 1]):
        place += 1
    return found[place], (*found[:place], *found[place + 1 :])


def steps_before(data: SiteData, experiment: Experiment, *, round: int) -> int:
    """Steps of the whole plan before ``round``, where the site takes part in every one."""
    left, steps = round - 1, 0
    for stretch in _in_order(data, experiment):
        steps += stretch.steps * min(left, stretch.rounds)
        left -= min(left, stretch.rounds)
    return steps


def steps_in_all(data: SiteData, experiment: Experiment) -> int:
    """Steps of the whole plan."""
    return sum(stretch.steps * stretch.rounds for stretch in _in_order(data, experiment))
