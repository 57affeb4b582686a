"""Exact accuracies of a state on all hold-outs, looked at in one way, whichever side made it.

Example::

    by_site = accuracies(place, [last_state(place, "ours-0"), last_state(place, "glue-0")])
    by_site[0]["amazon"]

A bench may measure what a site would not tell: see :mod:`fedrelease.client.site` for what leaves one.
"""

from collections.abc import Mapping, Sequence

import numpy

from fedrelease.data.sites import open_site
from fedrelease.models.classifier import build_classifier, load_state
from fedrelease.models.evaluation import look
from fedrelease.simulations.bench.runs import Place
from fedrelease.update import State

__all__ = ["accuracies"]


def accuracies(place: Place, states: Sequence[State]) -> list[Mapping[str, float]]:
    """The share of each site's hold-out that each state gets right, by site."""
    model = build_classifier(place.base, place.experiment.model, seed=place.experiment.federation.seed)
    holdouts = {site: open_site(place.prepared.folder / site).holdout for site in place.prepared.sites}
    found: list[Mapping[str, float]] = []
    for state in states:
        load_state(model, state)
        matrices = {site: look(model, rows, place.experiment.model.labels).matrix for site, rows in holdouts.items()}
        found.append({site: float(numpy.trace(matrix) / matrix.sum()) for site, matrix in matrices.items()})
    return found
