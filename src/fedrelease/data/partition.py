"""How rows become sites: by a column's values, evenly, or skewed by label or by size, from one seed.

Example::

    sites = partition([0, 0, 1, 1], None, Partition(by="iid", sites=2), seed=7)
    sites        # {'site-00': [0, 3], 'site-01': [1, 2]}, say: every row exactly once
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedrelease.errors import DataError
from fedrelease.experiment import Partition
from fedrelease.files import digest_bytes

__all__ = ["LEAST_ROWS", "partition", "site_names"]

LEAST_ROWS = 2
"""Rows that a site needs: one to train on and one to hold out."""
_DRAWS = 100
_LONGEST_NAME = 60

Indices: TypeAlias = NDArray[np.int64]


def partition(
    table_labels: Sequence[int], column_values: Sequence[str] | None, spec: Partition, *, seed: int
) -> dict[str, list[int]]:
    """Site names with their sorted row indices, in order of the names.

    Args:
        table_labels: the label of every row; private.
        column_values: the value of ``spec.column`` of every row; only ``by = "column"`` needs it.
        spec: which rule, and its knobs.
        seed: the same seed gives the same sites in every process.

    Guarantees: every row is in exactly one site; every site has at least two rows.

    Raises:
        DataError: the rows cannot be cut so that every site has two.
    """
    if spec.by == "column":
        return _by_column(column_values or (), spec)
    labels = np.asarray(table_labels, dtype=np.int64)
    needed = max(LEAST_ROWS * spec.sites, spec.sites * spec.shards if spec.by == "shards" else 0)
    if len(labels) < needed:
        what = f"{len(labels)} rows are too few for {spec.sites} sites by {spec.by}"
        rule = f"{needed} rows are needed, so that every site has at least {LEAST_ROWS}"
        raise DataError(what, value=spec.sites, rule=rule, hint="lower [data.partition] sites, or bring more rows")
    parts = _RULES[spec.by](labels, spec, np.random.default_rng(seed))
    width = max(2, len(str(spec.sites - 1)))
    return {f"site-{number:0{width}d}": sorted(part.tolist()) for number, part in enumerate(parts)}


def site_names(values: Sequence[str]) -> dict[str, str]:
    """A file-safe name for every distinct value, whatever the order: lower-case letters, digits and ``-``.

    Values whose names would be equal, empty or too long get a piece of their sha256 at the end.
    """
    slugs = {value: _slug(value) for value in set(values)}
    shared = defaultdict(list)
    for value, slug in slugs.items():
        shared[slug].append(value)
    plain = {value for value, slug in slugs.items() if slug and len(slug) <= _LONGEST_NAME and len(shared[slug]) == 1}
    return {value: slug if value in plain else _marked(value, slug) for value, slug in slugs.items()}


def _slug(value: str) -> str:
    plain = unicodedata.normalize("NFKD", value).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def _marked(value: str, slug: str) -> str:
    return f"{slug[:_LONGEST_NAME] or 'site'}-{digest_bytes(value.encode())[:10]}"


def _by_column(values: Sequence[str], spec: Partition) -> dict[str, list[int]]:
    names = site_names(values)
    sites: dict[str, list[int]] = {name: [] for name in sorted(names.values())}
    for index, value in enumerate(values):
        sites[names[value]].append(index)
    for value, name in sorted(names.items()):
        if len(sites[name]) < LEAST_ROWS:
            what = f"site {name} would have 1 row"
            rule = f"every value of [data.partition] column = {spec.column!r} has at least {LEAST_ROWS} rows"
            raise DataError(what, value=value, rule=rule, hint="remove or rename that value, or name another column")
    return sites


def _iid(labels: Indices, spec: Partition, generator: np.random.Generator) -> list[Indices]:
    """Shuffled, then cut into pieces whose sizes differ by one at most."""
    return list(np.array_split(generator.permutation(len(labels)), spec.sites))


def _shards(labels: Indices, spec: Partition, generator: np.random.Generator) -> list[Indices]:
    """Sorted by label, cut into ``sites * shards`` pieces, dealt out at random.

    Source: McMahan et al. (2017), https://arxiv.org/abs/1602.05629, section 3.
    """
    shuffled = generator.permutation(len(labels))
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    pieces = np.array_split(ordered, spec.sites * spec.shards)
    hands = generator.permutation(len(pieces)).reshape(spec.sites, spec.shards)
    return [np.concatenate([pieces[number] for number in hand]) for hand in hands]


def _dirichlet(labels: Indices, spec: Partition, generator: np.random.Generator) -> list[Indices]:
    """Each label's rows are dealt out in proportions drawn from a symmetric Dirichlet.

    Source: Yurochkin et al. (2019), https://arxiv.org/abs/1905.12022, section 4; Hsu et al. (2019),
    https://arxiv.org/abs/1909.06335, draw the proportions of a site instead of those of a label.
    """

    def draw() -> list[Indices]:
        cuts = [_deal(np.flatnonzero(labels == label), spec, generator) for label in np.unique(labels)]
        return [np.concatenate(pieces) for pieces in zip(*cuts, strict=True)]

    return _drawn(draw, spec)


def _quantity(labels: Indices, spec: Partition, generator: np.random.Generator) -> list[Indices]:
    """Labels stay mixed; sizes are drawn from a symmetric Dirichlet."""
    return _drawn(lambda: _deal(np.arange(len(labels)), spec, generator), spec)


def _deal(rows: Indices, spec: Partition, generator: np.random.Generator) -> list[Indices]:
    shares = generator.dirichlet(np.full(spec.sites, spec.alpha))
    ends = np.nan_to_num(np.cumsum(shares)[:-1], nan=0.0)
    cuts = np.rint(ends * len(rows)).astype(np.int64)
    return list(np.split(generator.permutation(rows), cuts))


def _drawn(draw: Callable[[], list[Indices]], spec: Partition) -> list[Indices]:
    """The first of a hundred draws in which every site has enough rows."""
    smallest = ""
    for _ in range(_DRAWS):
        parts = draw()
        least = min(range(len(parts)), key=lambda number: len(parts[number]))
        if len(parts[least]) >= LEAST_ROWS:
            return parts
        smallest = f"site-{least:02d} would have {len(parts[least])} rows"
    what = f"no draw of {_DRAWS} gave every site enough rows; in the last one {smallest}"
    rule = f"every site has at least {LEAST_ROWS} rows"
    hint = "raise [data.partition] alpha, lower its sites, or bring more rows"
    raise DataError(what, value=f"alpha = {spec.alpha}, sites = {spec.sites}", rule=rule, hint=hint)


_RULES: Mapping[str, Callable[[Indices, Partition, np.random.Generator], list[Indices]]] = {
    "dirichlet": _dirichlet,
    "iid": _iid,
    "quantity": _quantity,
    "shards": _shards,
}
