"""Which row of a table goes to which site, and there to training or to the hold-out; nothing is written here.

Example::

    plan = plan_sites(experiment, table)
    plan.sites["amazon"].train       # (17, 4, 250, ...): row indices into the table, shuffled
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedrelease.data.partition import LEAST_ROWS, partition
from fedrelease.data.sources import Table
from fedrelease.errors import DataError
from fedrelease.experiment import Data, Experiment
from fedrelease.files import digest_bytes
from fedrelease.tasks import TASKS

__all__ = ["POOL", "SitePlan", "SitesPlan", "plan_own", "plan_pool", "plan_sites"]

POOL = "pool"
"""The one site of :func:`plan_pool`."""


@dataclass(frozen=True, kw_only=True)
class SitePlan:
    """Row indices into the table: all rows of the site, those to train on, those held out."""

    rows: tuple[int, ...]
    train: tuple[int, ...]
    holdout: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SitesPlan:
    """Which row goes where, decided before anything is written."""

    sites: Mapping[str, SitePlan]
    server: tuple[int, ...]
    warnings: tuple[str, ...]


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """A stream of its own for every purpose, so that one site's rows do not change another's."""
    return np.random.default_rng(int(digest_bytes(f"{seed}\n{purpose}".encode())[:16], 16))


def plan_sites(experiment: Experiment, table: Table) -> SitesPlan:
    """Deal out every row of the table.

    Raises:
        DataError: a site would have too few rows, or all training rows have one label.
    """
    data, seed = experiment.data, experiment.federation.seed
    server, rest = _take_server_rows(len(table.texts), data, seed)
    values = table.columns.get(data.partition.column)
    cut = partition(
        [table.labels[row] for row in rest],
        [values[row] for row in rest] if values is not None else None,
        data.partition,
        seed=seed,
    )
    sites = {
        name: _split(name, [rest[index] for index in indices], table.texts, data, seed) for name, indices in cut.items()
    }
    return SitesPlan(sites=sites, server=server, warnings=_warnings_of(experiment, sites, table))


def plan_pool(experiment: Experiment, table: Table) -> SitesPlan:
    """One site of all rows: what virtual sites draw from. A row that one of them trains on is in nobody's hold-out.

    Raises:
        DataError: there are too few rows, or all training rows have one label.
    """
    data, seed = experiment.data, experiment.federation.seed
    server, rest = _take_server_rows(len(table.texts), data, seed)
    sites = {POOL: _split(POOL, rest, table.texts, replace(data, holdout_limit=None), seed)}
    return SitesPlan(sites=sites, server=server, warnings=_warnings_of(experiment, sites, table))


def plan_own(experiment: Experiment, table: Table, site: str) -> SitesPlan:
    """One site of all rows, as :func:`plan_sites` would split it among others; one class only is no fault of a single site.

    Raises:
        DataError: there are too few rows.
    """
    rows = range(len(table.texts))
    split = _split(site, rows, table.texts, experiment.data, experiment.federation.seed)
    return SitesPlan(sites={site: split}, server=(), warnings=())


def _take_server_rows(count: int, data: Data, seed: int) -> tuple[tuple[int, ...], list[int]]:
    """The server's hold-out and the rest, both in the source's order."""
    if data.server_holdout == 0:
        return (), list(range(count))
    size = max(1, round(data.server_holdout * count))
    chosen = set(_generator(seed, "server hold-out").permutation(count)[:size].tolist())
    return tuple(sorted(chosen)), [row for row in range(count) if row not in chosen]


def _split(name: str, rows: Sequence[int], texts: Sequence[str], data: Data, seed: int) -> SitePlan:
    """Limit and split one site's rows; hold-out rows above their limit are left unused.

    Every row's place follows from its own text alone (and the seed): another row more or less moves no row between training
    and hold-out, which is what lets a privacy ledger compose the two in parallel; and equal texts lie on one side.
    """
    places = {row: _place(texts[row], f"{seed}\nsplit {name}") for row in rows}
    kept = sorted(rows, key=lambda row: (_place(texts[row], f"{seed}\norder {name}"), row))[: data.limit_per_site]
    if len(kept) < LEAST_ROWS:
        rule = f"a site has at least {LEAST_ROWS} rows: one to train on and one to hold out"
        hint = "raise [data] limit_per_site, or bring more rows"
        raise DataError(f"site {name} would have {len(kept)} row", value=name, rule=rule, hint=hint)
    held = {row for row in kept if places[row] < data.holdout} or {min(kept, key=lambda row: (places[row], row))}
    if len(held) == len(kept):
        held.remove(max(kept, key=lambda row: (places[row], row)))
    train = tuple(row for row in kept if row not in held)
    return SitePlan(
        rows=tuple(rows), train=train, holdout=tuple(row for row in kept if row in held)[: data.holdout_limit]
    )


def _place(text: str, purpose: str) -> float:
    """A number in [0, 1) that depends on the text and the purpose only."""
    return int(digest_bytes(f"{purpose}\n{text}".encode())[:13], 16) / 16**13


def _warnings_of(experiment: Experiment, sites: Mapping[str, SitePlan], table: Table) -> tuple[str, ...]:
    model = experiment.model
    return _warnings(sites, table, model.labels, skewed=TASKS[model.task].skewed)


def _warnings(sites: Mapping[str, SitePlan], table: Table, labels: Sequence[str], *, skewed: bool) -> tuple[str, ...]:
    """One sentence for every one-class site; all sites with the same single class are refused."""
    if not skewed:
        return ()
    classes = {name: {table.labels[row] for row in site.train} for name, site in sites.items()}
    together = set().union(*classes.values())
    if len(together) < 2:
        only = labels[together.pop()]
        rule = "the training rows of all sites together have at least two labels"
        hint = "check [data] label and [model] labels, or raise [data] limit_per_site"
        raise DataError(f"every training row has the label {only}", value=only, rule=rule, hint=hint)
    return tuple(
        f"site {name} has training rows of one label only ({labels[next(iter(found))]})"
        for name, found in classes.items()
        if len(found) == 1
    )
