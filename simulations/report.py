"""What a store's releases come to: one row a version, a CSV of them, and a picture of how the federation learned.

Example::

    rows = summary_rows(store)                                  # oldest first
    learning_curve(store, Path("releases/learning-curve.png"))
    write_summary(store, Path("releases/summary.csv"))
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedrelease.files import write_durably
from fedrelease.manifest import Manifest, version_key
from fedrelease.server.journal import RELEASES, LogEntry
from fedrelease.server.store import Store
from fedrelease.tasks import TASKS

__all__ = ["Row", "learning_curve", "row_of", "summary_rows", "write_summary"]

COLUMNS = (
    "version",
    "verdict",
    "phase",
    "round",
    "strategy",
    "accuracy",
    "worst_site",
    "worst_accuracy",
    "epsilon",
    "bytes_up",
    "bytes_down",
    "seconds",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One release in short. What is ``None`` was withheld by the sites, does not apply, or was lost in a crash.

    Attributes:
        accuracy: mean over the sites' hold-outs, each site counting the same.
        worst_accuracy: of ``worst_site``.
        sites: accuracy of each site that tells.
        epsilon: spent until now by the worst site.
        bytes_up, bytes_down: from and to the sites in this round.
        seconds: that the round took.
        shown: what the task shows beside accuracy, such as ``entity_f1``; means over the sites.
    """

    version: str
    verdict: str
    phase: str
    round: int
    strategy: str
    accuracy: float | None
    worst_site: str | None
    worst_accuracy: float | None
    epsilon: float | None
    bytes_up: int | None
    bytes_down: int | None
    seconds: float | None
    sites: Mapping[str, float] = field(default_factory=dict)
    shown: Mapping[str, float | None] = field(default_factory=dict)


def row_of(manifest: Manifest, entry: LogEntry | None) -> Row:
    """The row of one release; ``entry`` is its line in the log, if there is one."""
    metrics, task = manifest.metrics, TASKS.get(manifest.task.name)
    return Row(
        version=manifest.version,
        verdict=manifest.verdict,
        phase=manifest.phase,
        round=manifest.round,
        strategy=manifest.federation.strategy,
        accuracy=metrics.mean.get("accuracy", metrics.server.get("accuracy")),
        worst_site=metrics.worst_site,
        worst_accuracy=metrics.worst.get("accuracy"),
        epsilon=manifest.privacy.epsilon_total if manifest.privacy else None,
        bytes_up=entry.bytes_up if entry else None,
        bytes_down=entry.bytes_down if entry else None,
        seconds=entry.seconds if entry else None,
        sites={site: told["accuracy"] for site, told in sorted(metrics.sites.items()) if "accuracy" in told},
        shown={name: metrics.mean.get(name, metrics.server.get(name)) for name in (task.shown if task else ())},
    )


def summary_rows(store: Store) -> tuple[Row, ...]:
    """One row for every release in the store, oldest first."""
    entries = {entry.digest: entry for entry in store.history() if entry.event in RELEASES}
    releases = sorted(store.releases(), key=lambda release: version_key(release.version))
    return tuple(row_of(release.manifest, entries.get(release.digest)) for release in releases)


def learning_curve(store: Store, path: Path) -> Path:
    """Draw accuracy and epsilon by version as a PNG of 1200 x 750 pixels, and return its path."""
    from fedrelease.simulations.curve import curve_png

    rows = summary_rows(store)
    releases = store.releases()
    name = releases[-1].manifest.federation.name if releases else "federation"
    write_durably(path, curve_png(rows, name=name))
    return path


def write_summary(store: Store, path: Path) -> Path:
    """Write the rows as CSV with one more column for each metric that the task shows, and a site; return its path."""
    write_durably(path, _csv(summary_rows(store)).encode())
    return path


def _csv(rows: Sequence[Row]) -> str:
    sites = sorted({site for row in rows for site in row.sites})
    shown = sorted({name for row in rows for name in row.shown})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *shown, *(f"site:{site}" for site in sites)])
    for row in rows:
        cells = [getattr(row, column) for column in COLUMNS] + [row.shown.get(name) for name in shown]
        cells += [row.sites.get(site) for site in sites]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()
