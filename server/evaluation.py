"""What sites told about their hold-outs, as the metrics of a release.

Example::

    metrics, report = site_metrics(answers, labels=("negative", "positive"))
    metrics.mean["accuracy"], metrics.worst_site
"""

from collections.abc import Mapping, Sequence

import numpy

from fedrelease.manifest import MetricsFacts
from fedrelease.messages import ACCURACY_PRIVATE, Answer
from fedrelease.models.metrics import report, scores

__all__ = ["SiteReport", "site_metrics"]

SiteReport = Mapping[str, Mapping[str, Mapping[str, float]]]
SHARED = ("accuracy", ACCURACY_PRIVATE, "macro_f1", "loss")
DECIMALS = 6


def site_metrics(
    answers: Mapping[str, Answer], *, labels: Sequence[str], server: Mapping[str, float]
) -> tuple[MetricsFacts, SiteReport]:
    """The metrics of a release, and the per-class report of each site that told something.

    ``mean`` is the plain mean over sites; ``worst`` holds, for each metric, the worst value of any site; ``worst_site`` has the
    lowest accuracy; ``server`` is what the server saw on its own hold-out. All are of the release as it is, but for
    ``accuracy_private``: that is of the release with each site's own private part in place.
    """
    sites = {name: found for name in sorted(answers) if (found := _scores(answers[name]))}
    detail = {name: _detail(answers[name], labels) for name in sites}
    if not sites:
        return MetricsFacts(server=server), {}
    shared = [metric for metric in SHARED if all(metric in found for found in sites.values())]
    values = {metric: [found[metric] for found in sites.values()] for metric in shared}
    metrics = MetricsFacts(
        server=server,
        mean={metric: _rounded(sum(column) / len(column)) for metric, column in values.items()},
        worst={metric: max(column) if metric == "loss" else min(column) for metric, column in values.items()},
        worst_site=min(sites, key=lambda name: sites[name]["accuracy"]),
        sites=sites,
    )
    return metrics, detail


def _scores(answer: Answer) -> dict[str, float]:
    if answer.confusion is None:
        return {}
    found = scores(numpy.asarray(answer.confusion, dtype=float))
    if found and answer.loss is not None:
        found["loss"] = answer.loss
    if found and ACCURACY_PRIVATE in answer.metrics:
        found[ACCURACY_PRIVATE] = answer.metrics[ACCURACY_PRIVATE]
    return {metric: _rounded(value) for metric, value in found.items()}


def _detail(answer: Answer, labels: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
    found = report(numpy.asarray(answer.confusion, dtype=float), labels)
    return {label: {name: _rounded(value) for name, value in row.items()} for label, row in found.items()}


def _rounded(value: float) -> float:
    return round(value, DECIMALS)
