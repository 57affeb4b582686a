"""What sites told about their hold-outs, as the metrics of a release.

Example::

    metrics, report = site_metrics(answers, labels=("negative", "positive"))
    metrics.mean["accuracy"], metrics.worst_site
"""

from collections.abc import Mapping, Sequence

import numpy

from fedrelease.manifest import MetricsFacts
from fedrelease.messages import ACCURACY_PRIVATE, Answer
from fedrelease.tasks import TASKS
from fedrelease.tasks.contract import Report, Task, measured

__all__ = ["SiteReport", "site_metrics"]

SiteReport = Mapping[str, Report]
NOT_SHARED = ("examples",)
LOWER_IS_BETTER = ("loss", "mean_absolute_error", "perplexity")
DECIMALS = 6


def site_metrics(
    answers: Mapping[str, Answer],
    *,
    labels: Sequence[str],
    server: Mapping[str, float],
    task: str = "text-classification",
    unit: float = 1.0,
) -> tuple[MetricsFacts, SiteReport]:
    """The metrics of a release, and the per-class report of each site that told something.

    ``mean`` is the plain mean over sites; ``worst`` holds, for each metric, the worst value of any site; ``worst_site`` has the
    lowest accuracy; ``server`` is what the server saw on its own hold-out. All are of the release as it is, but for
    ``accuracy_private``: that is of the release with each site's own private part in place. ``unit`` is that of ``[data]``.
    """
    sites = {name: found for name in sorted(answers) if (found := _scores(answers[name], TASKS[task], unit))}
    detail = {name: _detail(answers[name], labels, TASKS[task]) for name in sites}
    if not sites:
        return MetricsFacts(server=server), {}
    first, *others = sites.values()
    shared = [metric for metric in first if metric not in NOT_SHARED and all(metric in found for found in others)]
    values = {metric: [found[metric] for found in sites.values()] for metric in shared}
    metrics = MetricsFacts(
        server=server,
        mean={metric: _rounded(sum(column) / len(column)) for metric, column in values.items()},
        worst={metric: max(column) if metric in LOWER_IS_BETTER else min(column) for metric, column in values.items()},
        worst_site=min(sites, key=lambda name: sites[name]["accuracy"]),
        sites=sites,
    )
    return metrics, detail


def _scores(answer: Answer, task: Task, unit: float) -> dict[str, float]:
    if answer.confusion is None:
        return {}
    found = measured(task, numpy.asarray(answer.confusion, dtype=float), answer.sums or (), unit=unit)
    if found and answer.loss is not None:
        found["loss"] = answer.loss
    if found and ACCURACY_PRIVATE in answer.metrics:
        found[ACCURACY_PRIVATE] = answer.metrics[ACCURACY_PRIVATE]
    return {metric: _rounded(value) for metric, value in found.items()}


def _detail(answer: Answer, labels: Sequence[str], task: Task) -> Report:
    found = task.report(numpy.asarray(answer.confusion, dtype=float), answer.sums or (), labels)
    return {label: {name: _rounded(value) for name, value in row.items()} for label, row in found.items()}


def _rounded(value: float) -> float:
    return round(value, DECIMALS)
