"""Rows that are where they should not be, once an experiment has dealt them out: at two sites, or in training and a hold-out.

Example::

    dealt = deal(experiment, rows, cache=cache_folder())
    dealt.sites["amazon"].train, dealt.two_sites, dealt.in_both
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedrelease.data.check.sheets import SheetRows
from fedrelease.data.check.texts import loosened
from fedrelease.data.plan import SitePlan, SitesPlan, plan_own, plan_pool, plan_sites
from fedrelease.data.sources import load_table
from fedrelease.experiment import Experiment, Partition

__all__ = ["Dealt", "SiteRows", "Told", "deal"]

OWN = "here"
"""The one site of a file that says nothing of sites."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """A row of the table: its line, and its text without what case and spaces say."""

    line: int
    text: str


@dataclass(frozen=True, kw_only=True)
class SiteRows:
    """How many rows a site trains on and holds out."""

    train: int
    holdout: int


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """Which rows went where.

    Attributes:
        own: the source has no column of sites and was taken for one site's own rows.
        server: rows of the server's hold-out.
        two_sites: lines whose text is at another site too; case and spaces do not count. in_both: lines of hold-outs whose text
            somebody trains on.
        warnings: what the experiment would say when it begins.
    """

    sites: Mapping[str, SiteRows]
    own: bool
    server: int
    two_sites: tuple[int, ...]
    in_both: tuple[int, ...]
    warnings: tuple[str, ...]


def deal(experiment: Experiment, rows: SheetRows, *, cache: Path) -> Dealt:
    """Deal out rows that all are in order, as the experiment would; its table has all of them, in the same order.

    Raises:
        DataError: what the experiment would refuse.
    """
    partition = experiment.data.partition
    own = partition.by == "column" and partition.column not in rows.columns
    data = (
        replace(experiment.data, partition=Partition(by="iid", sites=1), server_holdout=0.0) if own else experiment.data
    )
    experiment = replace(experiment, data=data)
    table = load_table(data, experiment.model.labels, cache=cache, task=experiment.model.task, fetch_missing=False)
    told = [Told(line=row.line, text=loosened(text)) for row, text in zip(rows.rows, table.texts, strict=True)]
    if own:
        plan = plan_own(experiment, table, OWN)
    else:
        plan = plan_pool(experiment, table) if partition.by == "virtual" else plan_sites(experiment, table)
    return Dealt(
        sites={name: SiteRows(train=len(site.train), holdout=len(site.holdout)) for name, site in plan.sites.items()},
        own=own,
        server=len(plan.server),
        two_sites=_two_sites(plan, told),
        in_both=_in_both(plan, told),
        warnings=plan.warnings,
    )


def _used(site: SitePlan) -> tuple[int, ...]:
    return (*site.train, *site.holdout)


def _two_sites(plan: SitesPlan, told: Sequence[Told]) -> tuple[int, ...]:
    at: dict[str, set[str]] = defaultdict(set)
    for name, site in plan.sites.items():
        for row in _used(site):
            at[told[row].text].add(name)
    used = sorted(row for site in plan.sites.values() for row in _used(site))
    return tuple(told[row].line for row in used if len(at[told[row].text]) > 1)


def _in_both(plan: SitesPlan, told: Sequence[Told]) -> tuple[int, ...]:
    trained = {told[row].text for site in plan.sites.values() for row in site.train}
    held = sorted({*plan.server, *(row for site in plan.sites.values() for row in site.holdout)})
    return tuple(told[row].line for row in held if told[row].text in trained)
