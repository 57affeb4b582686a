"""Preflight: the site's rows, base, ledger, memory and disk. What it finds is shown on this machine and goes nowhere.

Example::

    rows, checks = ...                                       # see :mod:`fedrelease.client.deployment.preflight`
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from fedrelease.cache import cache_folder
from fedrelease.client.deployment.check import Check, Checks, failed, passed, warned
from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.client.ledger import Ledger, total
from fedrelease.data.readers import kind_of, read_source
from fedrelease.data.sources import load_table
from fedrelease.errors import DataError
from fedrelease.experiment import Data, Experiment, Partition
from fedrelease.models.bases import Base
from fedrelease.tasks import TASKS
from fedrelease.wording import amount

__all__ = ["Needs", "OwnRows", "check_base", "check_data", "check_disk", "check_ledger", "check_memory", "own_data"]

LIBRARIES_BYTES = 900_000_000
"""Of the SuperNode (150 MB) and of the app with torch and transformers, before a model is there."""
MODEL_FACTOR = 4
"""Memory of a base in training over its weights on disk: copies, and what a step keeps.

Measured with a base of 91 MB: the app took 815 MB at most, where 1.1 GB is reckoned for it.
"""
TOKEN_BYTES = 8
"""Of one token of a prepared row on disk, at most."""
LEAST_DISK = 200_000_000
MOST_LABELS = 100
FEW_ROWS = 100


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """The site's rows as counted: how many, and of each label how many items; private to the site."""

    rows: int
    labels: Sequence[str]
    counts: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What taking part needs, in bytes."""

    memory: int
    disk: int

    @classmethod
    def of(cls, base: Base, rows: int, experiment: Experiment) -> "Needs":
        """Reckoned from the base's weights and the number of rows."""
        weights = sum(path.stat().st_size for path in base.folder.glob("*.safetensors"))
        prepared = rows * experiment.training.max_length * TOKEN_BYTES
        return cls(memory=LIBRARIES_BYTES + MODEL_FACTOR * weights, disk=LEAST_DISK + weights + prepared)


def own_data(site: SiteFolder, data: Data) -> Data:
    """Where the site's rows lie, with the rest as the experiment has it.

    Raises:
        DataError: site.toml names none.
    """
    own = site.settings
    if not own.source:
        raise DataError("this site has no data", rule="[data] source in site.toml names a file", hint="edit site.toml")
    source = Path(own.source).expanduser()
    found = source if source.is_absolute() else site.folder / source
    whole = Partition(by="iid", sites=1)
    return replace(data, source=str(found), text=own.text, label=own.label, partition=whole, server_holdout=0.0)


def check_data(data: Data, labels: Sequence[str] | None, *, task: str) -> tuple[OwnRows, Check]:
    """The rows, all of them read for a task; without ``labels`` those that are found.

    Raises:
        DataError: the source, a column or a row cannot be used.
    """
    wanted = TASKS[task]
    known = labels or _labels_in(data)
    table = load_table(data, known, cache=cache_folder(), task=task)
    counted = Counter(name for example in table.examples for name in wanted.named(example, known))
    own = OwnRows(rows=len(table.labels), labels=known, counts=[counted[name] for name in known])
    told = ", ".join(f"{label} {count}" for label, count in zip(own.labels, own.counts, strict=True))
    counts = "" if wanted.in_units else f" ({told})"  # numbers have no labels to count
    found = f"{Path(data.source).name}: {own.rows} rows{counts}, shown here only"
    if wanted.skewed and (min(own.counts) == 0 or len(known) < 2):
        rule = "a site with rows of one label only learns nothing about the others"
        return own, warned(
            "data", found, rule=rule, hint="check the label column, or ask the operator whether that is meant"
        )
    if own.rows < FEW_ROWS:
        rule = f"privacy costs least with many rows; below {FEW_ROWS} noise may hide them all"
        return own, warned("data", found, rule=rule, hint="add rows if you have more")
    return own, passed("data", found)


def _labels_in(data: Data) -> tuple[str, ...]:
    kind = kind_of(data.source)
    if kind != "hub" and not Path(data.source).exists():
        rule = "[data] source in site.toml names a .csv, .jsonl, .parquet or .conll file, or a folder of the datasets library"
        raise DataError("there is no such file", value=data.source, rule=rule, hint="edit site.toml")
    sheet = read_source(data.source)
    if data.label not in sheet.columns:
        there = ", ".join(sheet.columns)
        raise DataError(
            f"{sheet.name} has no column {data.label!r}", rule=f"its columns are {there}", hint="edit site.toml"
        )
    if names := sheet.classes.get(data.label):
        return names
    values = (row.values[data.label] for row in sheet.rows if data.label in row.values)
    found = sorted({str(part).strip() for value in values for part in _parts(value)})
    if len(found) > MOST_LABELS:
        raise DataError(
            f"the column {data.label!r} has {len(found)} different values",
            rule=f"a label has few values, at most {MOST_LABELS} without an experiment that names them",
            hint="check [data] label in site.toml",
        )
    return tuple(found)


def _parts(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else (value,)


def check_base(base: Base, *, named: bool) -> Check:
    """What it is; without an experiment nobody said which one the federation uses."""
    found = f"{base.ref}, digest {base.digest[:16]}, in {base.folder}"
    if named:
        return passed("base", found)
    rule = "rounds use the base of the operator's experiment, known by its digest"
    return warned("base", f"{found}; no experiment was given", rule=rule, hint="fedrelease site check EXPERIMENT.toml")


def check_memory(needs: Needs) -> Check:
    """Free memory against what the base needs in training."""
    free = psutil.virtual_memory().available
    found, rule = f"{amount(free)} free", f"{amount(needs.memory)} for the libraries and this base in training"
    if free < needs.memory:
        hint = "close other programs, or ask for a smaller base or training.micro_batch"
        return failed("memory", found, rule=rule, hint=hint)
    return passed("memory", f"{found}, {amount(needs.memory)} needed")


def check_disk(site: SiteFolder, needs: Needs) -> Check:
    """Free disk where the site's folder lies."""
    free = shutil.disk_usage(site.folder).free
    found = f"{amount(free)} free in {site.folder}"
    if free < needs.disk:
        rule = f"{amount(needs.disk)} for prepared rows, logs and a base"
        return failed("disk", found, rule=rule, hint="free some space; a full disk refuses rounds")
    return passed("disk", f"{found}, {amount(needs.disk)} needed")


def check_ledger(site: SiteFolder, experiment: Experiment) -> Checks:
    """Whether the ledger's seals hold, and what is left of the budget.

    Raises:
        PrivacyError: a line is not a charge, or its seal is broken.
    """
    entries = Ledger(site.home / "ledger.jsonl").entries()
    if not entries:
        yield passed("ledger", "nothing was spent")
        return
    last, budget = entries[-1], experiment.privacy.epsilon
    spent = total(entries, delta=last.delta, accountant=last.accountant)
    found = f"{len(entries)} charges, every seal holds; epsilon {spent:.3f} spent at delta {last.delta:g}"
    if spent >= budget:
        rule = f"the experiment's budget is {budget:g}"
        yield warned(
            "ledger", found, rule=rule, hint="further rounds will be refused unless you agree to a greater one"
        )
        return
    yield passed("ledger", f"{found}, {budget - spent:.3f} left of {budget:g}")
