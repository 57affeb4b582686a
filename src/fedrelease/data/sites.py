"""From an experiment to sites on disk: table, hold-outs, partition, limits, tokens; made once and kept.

Example::

    prepared = prepare_sites(experiment, base_folder=folder, tokenizer_digest=digest, cache=cache_folder())
    prepared.sites                                   # ('amazon', 'movie', 'nyt', 'tweets')
    site = open_site(prepared.folder / "amazon")
    site.train.batch([0, 1, 2])
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias, cast

import torch
from torch import Tensor

from fedrelease.cache import workspace
from fedrelease.data.plan import POOL, SitePlan, SitesPlan, plan_pool, plan_sites
from fedrelease.data.row_files import Rows, of_labels, open_rows
from fedrelease.data.sources import Table, load_table, source_digest, table_digest
from fedrelease.data.tokens import Tokenizer, load_tokenizer, save_rows
from fedrelease.data.virtual import POPULATION, ByLabel, Pool, by_label, draw_rows, open_pool, write_pool
from fedrelease.errors import DataError
from fedrelease.experiment import Data, Experiment
from fedrelease.experiment_sections import CLASSIFICATION
from fedrelease.fetch import FetchProgress
from fedrelease.files import Json, canonical_bytes, digest_bytes, write_durably
from fedrelease.population import Population
from fedrelease.tasks import TASKS

__all__ = [
    "PrepareProgress",
    "Prepared",
    "SiteData",
    "find_prepared",
    "open_site",
    "prepare_sites",
    "prepared_key",
    "training_rows",
    "write_prepared",
]

_FORMAT = 2
_SUMMARY = "prepared.json"
LATER = ("chat", "prompt", "range", "target", "text_pair", "tolerance", "words_per_text")
"""Keys of ``[data]`` that a digest of prepared rows leaves out where they have their defaults."""
_SERVER = "server.safetensors"


@dataclass(frozen=True, kw_only=True)
class PrepareProgress:
    """One more site is tokenised."""

    site: str
    done: int
    total: int


Listener: TypeAlias = Callable[[FetchProgress | PrepareProgress], None]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Sites on disk.

    Attributes:
        folder: one folder a site, by name; of virtual sites there is only what they draw from.
        sites: all names, sorted.
        server_holdout: token rows that no site has; ``None`` when the experiment keeps none.
        warnings: sentences on what is legal but odd, such as a site with one class only.
    """

    folder: Path
    sites: Sequence[str]
    server_holdout: Path | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SiteData:
    """One site's rows; everything but the name is private to the site.

    Attributes:
        name: stable.
        fingerprint: sha256 over all (text, label) rows of the site, before limits and splits; it does not change
            with seeds, limits, labels' order or tokenizers, so that a ledger can add up what was spent on them.
        split: sha256 that changes when any row changes sides between training and hold-out.
        train: rows to train on.
        holdout: rows that are never trained on; by no site, where sites are virtual.
        label_counts: training rows by label, for every label of the experiment; the same in every phase.
    """

    name: str
    fingerprint: str
    split: str
    train: Rows
    holdout: Rows
    label_counts: Mapping[str, int]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the rows were prepared for, in order."""
        return tuple(self.label_counts)

    def with_labels(self, count: int) -> "SiteData":
        """The same site with the rows of its first ``count`` labels only; no row changes sides."""
        return replace(self, train=of_labels(self.train, count), holdout=of_labels(self.holdout, count))


def prepare_sites(
    experiment: Experiment,
    *,
    base_folder: Path,
    tokenizer_digest: str,
    cache: Path,
    progress: Listener | None = None,
) -> Prepared:
    """Cut the experiment's source into sites and tokenise them, or find that done already.

    Args:
        experiment: its data, labels, ``max_length`` and seed decide everything.
        base_folder: local folder of the base, for its tokenizer.
        tokenizer_digest: of the tokenizer's files; another tokenizer makes another folder.
        cache: the folder appears below ``cache/prepared``, whole, in one rename.
        progress: told about a fetch, and after each site.

    Guarantees: the same arguments give the same rows, sites and splits on every machine; a second call reads one small
    file (and, for a hub id, the source itself); two processes at once do not disturb each other.

    Raises:
        DataError: the source or a site cannot be used, or all training rows have one label.
        FetchError: a built-in source cannot be fetched.
    """
    content, table = source_digest(experiment.data.source), None
    if content is None:
        table = _table(experiment, cache, progress)
        content = table_digest(table)
    folder = cache / "prepared" / prepared_key(experiment, content, tokenizer_digest)
    if not (folder / _SUMMARY).is_file():
        table = table or _table(experiment, cache, progress)
        virtual = experiment.data.partition.by == "virtual"
        plan = plan_pool(experiment, table) if virtual else plan_sites(experiment, table)
        with workspace(folder.parent) as work:
            if not (folder / _SUMMARY).is_file():
                tokenizer = None if table.features is not None else load_tokenizer(base_folder)
                write_prepared(experiment, table, plan, tokenizer, work / "new", progress or _silence)
                (work / "new").rename(folder)
    return _open(folder)


def find_prepared(experiment: Experiment, *, tokenizer_digest: str, cache: Path) -> Prepared | None:
    """The sites of :func:`prepare_sites` where they are prepared already; ``None`` where they are not, or cannot be known.

    Nothing is fetched and no row is read.
    """
    try:
        content = source_digest(experiment.data.source)
    except DataError:
        return None
    if content is None:
        return None
    folder = cache / "prepared" / prepared_key(experiment, content, tokenizer_digest)
    return _open(folder) if (folder / _SUMMARY).is_file() else None


def _table(experiment: Experiment, cache: Path, progress: Listener | None) -> Table:
    model = experiment.model
    return load_table(experiment.data, model.labels, cache=cache, task=model.task, progress=progress)


def _silence(event: FetchProgress | PrepareProgress) -> None:
    del event


def prepared_key(experiment: Experiment, content: str, tokenizer_digest: str) -> str:
    """A digest of all that the rows depend on, and of nothing else."""
    data: dict[str, Json] = {name: value for name, value in asdict(experiment.data).items() if name != "source"}
    for key in LATER:  # they came later, and what is prepared without them stays
        if data[key] == getattr(Data(), key):
            del data[key]
    task = experiment.model.task
    parts: dict[str, Json] = {
        **({} if task in CLASSIFICATION else {"task": task}),  # those came first, and what is prepared for them stays
        "format": _FORMAT,
        "content": content,
        "data": data,
        "labels": experiment.model.labels,
        "max_length": experiment.training.max_length,
        "tokenizer": tokenizer_digest,
        "seed": experiment.federation.seed,
    }
    return digest_bytes(canonical_bytes(parts))


def _open(folder: Path) -> Prepared:
    facts = json.loads((folder / _SUMMARY).read_bytes())
    server = folder / _SERVER if facts["server_rows"] else None
    sites = Population(facts["population"]) if facts["population"] else tuple(facts["sites"])
    return Prepared(folder=folder, sites=sites, server_holdout=server, warnings=tuple(facts["warnings"]))


def write_prepared(
    experiment: Experiment,
    table: Table,
    plan: SitesPlan,
    tokenizer: Tokenizer | None,
    folder: Path,
    tell: Listener = _silence,
) -> None:
    """Write a new folder with the sites of a plan; ``tokenizer`` is for texts. It is complete when its summary is there."""

    task = TASKS[experiment.model.task]

    def save(path: Path, rows: Sequence[int]) -> Tensor:
        examples = [table.examples[row] for row in rows]
        if table.features is not None:
            labels = torch.tensor([one.label for one in examples])
            save_rows(path, {"features": table.features[list(rows)], "labels": labels})
            return labels
        encoded = task.encode(
            examples, experiment.model.labels, cast(Tokenizer, tokenizer), experiment.training.max_length
        )
        save_rows(path, encoded)
        return encoded["labels"]

    partition = experiment.data.partition
    folder.mkdir()
    if plan.server:
        save(folder / _SERVER, plan.server)
    for done, (name, site) in enumerate(plan.sites.items(), start=1):
        train = save(folder / name / "train.safetensors", site.train)
        holdout = save(folder / name / "holdout.safetensors", site.holdout)
        facts = _site_facts(name, site, table, experiment.model.labels, train=train, holdout=len(holdout))
        (folder / name / "site.json").write_bytes(facts)
        tell(PrepareProgress(site=name, done=done, total=len(plan.sites)))
    if partition.by == "virtual":
        write_pool(folder / POPULATION, experiment.data, seed=experiment.federation.seed)
    summary: dict[str, Json] = {
        "format": _FORMAT,
        "sites": list(plan.sites),
        "population": partition.sites if partition.by == "virtual" else 0,
        "server_rows": len(plan.server),
        "warnings": plan.warnings,
    }
    write_durably(folder / _SUMMARY, canonical_bytes(summary))


def _site_facts(
    name: str, site: SitePlan, table: Table, labels: Sequence[str], *, train: Tensor, holdout: int
) -> bytes:
    """``train``: the labels of the rows to train on, of which a long text may give several."""
    counted = torch.bincount(train, minlength=len(labels)).tolist()
    fingerprint = digest_bytes(canonical_bytes(_content(table, site.rows, labels)))
    sides = [_content(table, rows, labels) for rows in (site.train, site.holdout)]
    facts: dict[str, Json] = {
        "name": name,
        "fingerprint": fingerprint,
        "split": digest_bytes(canonical_bytes([fingerprint, *sides])),
        "rows": len(site.rows),
        "train": len(train),
        "holdout": holdout,
        "label_counts": dict(zip(labels, counted, strict=True)),
        "labels": list(labels),
    }
    return canonical_bytes(facts)


def _content(table: Table, rows: Sequence[int], labels: Sequence[str]) -> Json:
    """What rows hold, in an order of their own; labels by name, since a fingerprint does not change with their order.

    Of a row with content that is all: its label may be no more than the place of one among many.
    """
    examples = [table.examples[row] for row in rows]
    return sorted([one.text, labels[one.label] if one.content is None else json.dumps(one.content)] for one in examples)


def training_rows(prepared: Prepared, site: str) -> int:
    """How many rows a site has to train on; only a simulation may ask."""
    pool = open_pool(prepared.folder)
    if pool is not None:
        return pool.rows
    return int(json.loads((prepared.folder / site / "site.json").read_bytes())["train"])


def open_site(folder: Path) -> SiteData:
    """One site of a prepared folder, or a virtual one, which has no folder; its rows stay on disk.

    Raises:
        DataError: the folder is missing or damaged.
    """
    pool = open_pool(folder.parent)
    return _stored(folder) if pool is None else _virtual(folder.parent / POOL, pool, folder.name)


@lru_cache(maxsize=2)
def _pool(folder: Path) -> tuple[SiteData, ByLabel, ByLabel]:
    """What virtual sites draw from, opened once in a process."""
    whole = _stored(folder)
    train, holdout = (by_label(rows.labels, len(whole.labels)) for rows in (whole.train, whole.holdout))
    return whole, train, holdout


def _virtual(folder: Path, pool: Pool, name: str) -> SiteData:
    """A site that is drawn anew, and alike, each time: what it has follows from its name."""
    whole, *drawn_from = _pool(folder)
    train, holdout = draw_rows(pool, name, *drawn_from)
    counts = torch.bincount(whole.train.labels[train], minlength=len(whole.labels)).tolist()
    split = digest_bytes(canonical_bytes([whole.split, pool.seed, pool.rows, pool.alpha, name]))
    return SiteData(
        name=name,
        fingerprint=split,
        split=split,
        train=whole.train.chosen(train),
        holdout=whole.holdout.chosen(holdout),
        label_counts=dict(zip(whole.labels, counts, strict=True)),
    )


def _stored(folder: Path) -> SiteData:
    try:
        facts = json.loads((folder / "site.json").read_bytes())
        counts = {label: int(facts["label_counts"][label]) for label in facts["labels"]}
        name, fingerprint, split = str(facts["name"]), str(facts["fingerprint"]), str(facts["split"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = f"delete {folder.parent} and run again: it will be prepared anew"
        raise DataError(f"{folder} is not a prepared site: {error}", value=str(folder), hint=hint) from error
    train, holdout = open_rows(folder / "train.safetensors"), open_rows(folder / "holdout.safetensors")
    return SiteData(name=name, fingerprint=fingerprint, split=split, train=train, holdout=holdout, label_counts=counts)
