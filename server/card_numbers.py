"""What is known of how good a release is: with intervals where its answer to every item is kept.

Example::

    wilson(81, 100)                                          # (0.722..., 0.875...)
    measured(release).rows[0]                                # ('all items', ('0.810 (0.722 to 0.875)', '100'))
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedrelease.manifest import RESIDUAL, Manifest
from fedrelease.server.gates.items import SERVER, Items
from fedrelease.server.release import Release
from fedrelease.tasks import TASKS

__all__ = ["Measured", "measured", "wilson"]

NAMED = 20
PRIVATE = "The sites keep their metrics private."
WITHOUT = "Without intervals: the answers to single items are not kept with this release."


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A table: names of its columns after the first, rows of texts; and a sentence on it."""

    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    note: str


def wilson(hits: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Bounds of a share, together at ``1 - alpha``.

    Source: Wilson (1927), https://doi.org/10.1080/01621459.1927.10502953.
    """
    found = stats.binomtest(hits, n).proportion_ci(1 - alpha, method="wilson")
    return float(found.low), float(found.high)


def measured(release: Release) -> Measured:
    """From the items of the release, else from what its manifest tells.

    Raises:
        DamagedRelease: the items are not those that were released.
    """
    if any(file.role == "items" for file in release.manifest.files):
        items = Items.from_bytes(release.read("items"))
        if len(items):
            return _of_items(items, release.manifest)
    return _told(release.manifest)


def _of_items(items: Items, manifest: Manifest) -> Measured:
    truth, group = np.array(items.labels, dtype=np.str_)[items.truth], np.array(items.group, dtype=np.str_)
    every = np.ones(len(items), dtype=np.bool_)
    slices: dict[str, NDArray[np.bool_]] = {"all items": every}
    slices |= {f"label {label}": truth == label for label in items.labels if (truth == label).any()}
    names = [str(name) for name in np.unique(group) if name != SERVER][:NAMED]
    slices |= {f"site {name}": group == name for name in names}
    rows = tuple((name, _cells(items.right[chosen])) for name, chosen in slices.items())
    note = f"Intervals are Wilson's, 95 %, item by item; the evaluation set is {items.evaluation[:16]}."
    task, told = TASKS[manifest.task.name], {**manifest.metrics.server, **manifest.metrics.mean}
    more = [f"{name.replace('_', ' ')} {told[name]:.3f}" for name in task.shown if name in told]
    note += f" Beside them: {', '.join(more)}." if more else ""
    return Measured(names=("accuracy (95 %)", "items"), rows=rows, note=note)


def _cells(right: NDArray[np.bool_]) -> tuple[str, str]:
    n, hits = len(right), int(right.sum())
    low, high = wilson(hits, n)
    return f"{hits / n:.3f} ({low:.3f} to {high:.3f})", str(n)


def _told(manifest: Manifest) -> Measured:
    metrics = manifest.metrics
    tables: dict[str, Mapping[str, float]] = {
        "mean of sites": metrics.mean,
        "worst of sites": metrics.worst,
        "server's hold-out": {name: value for name, value in metrics.server.items() if name != RESIDUAL},
        **{f"site {name}": values for name, values in sorted(metrics.sites.items())[:NAMED]},
    }
    told = {name: values for name, values in tables.items() if values}
    names = tuple(sorted({name for values in told.values() for name in values}))
    rows = tuple((row, tuple(_number(values.get(name)) for name in names)) for row, values in told.items())
    return Measured(names=names, rows=rows, note=WITHOUT if told else PRIVATE)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
