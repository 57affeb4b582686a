"""How releases are shown: the documents of ``--json`` and the pages of ``log`` and ``show``.

Example::

    log_document(store)["releases"][-1]["version"]      # '0.0.5': oldest first
    print_log(store, to_stdout())                       # newest first
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from rich.console import Console
from rich.text import Text

from fedrelease.cli.output import Column, fitting, put
from fedrelease.files import Json
from fedrelease.manifest import version_key
from fedrelease.server.channels import Channels
from fedrelease.server.journal import RELEASES, LogEntry
from fedrelease.server.release import Release
from fedrelease.server.retired import retired_files
from fedrelease.server.store import Store
from fedrelease.server.stragglers import is_late
from fedrelease.server.tracking.links import links_of
from fedrelease.server.variants import variants_of
from fedrelease.simulations.report import Row, row_of
from fedrelease.wording import number, plain

__all__ = ["log_document", "moment", "print_log", "release_document", "shown_columns", "why"]


def log_document(store: Store) -> dict[str, Json]:
    """What ``log --json`` prints; releases oldest first, so that the place of a release never changes."""
    channels, history = store.channels(), store.history()
    entries = _entries(history)
    releases = [_entry(release, entries.get(release.digest), channels) for release in _oldest_first(store)]
    pointers = {name: pointer.version for name, pointer in sorted(channels.channels.items())}
    failed = [_failure(entry) for entry in history if entry.event == "round-failed"]
    moves = [_move(entry) for entry in history if entry.event not in (*RELEASES, "round-failed")]
    return {"releases": releases, "channels": pointers, "failed_rounds": failed, "moves": moves}


def release_document(store: Store, release: Release) -> dict[str, Json]:
    """What ``show --json`` prints: the entry of ``log --json``, the whole manifest, what was exported and who tracked it."""
    entry = _entry(release, _entries(store.history()).get(release.digest), store.channels())
    variants: list[Json] = [variant.to_json() for variant in variants_of(release)]
    retired: list[Json] = [asdict(one) for one in retired_files(release.root, release.manifest)]
    tracking: list[Json] = [asdict(link) for link in links_of(release)]
    manifest = asdict(release.manifest)
    return {**entry, "manifest": manifest, "variants": variants, "retired": retired, "tracking": tracking}


def _oldest_first(store: Store) -> list[Release]:
    return sorted(store.releases(), key=lambda release: version_key(release.version))


def _entries(history: Sequence[LogEntry]) -> Mapping[str, LogEntry]:
    return {entry.digest: entry for entry in history if entry.digest is not None and entry.event in RELEASES}


def _entry(release: Release, entry: LogEntry | None, channels: Channels) -> dict[str, Json]:
    manifest, row = release.manifest, row_of(release.manifest, entry)
    federation = manifest.federation
    return {
        "version": release.version,
        "digest": release.digest,
        "parents": list(manifest.parents),
        "phase": manifest.phase,
        "round": manifest.round,
        "verdict": manifest.verdict,
        "channels": list(channels.pointing_at(release.version)),
        "labels": list(manifest.task.labels),
        "strategy": federation.strategy,
        "cohort": list(federation.cohort),
        "accepted": [accepted.site for accepted in federation.accepted],
        "refused": [{"site": refused.site, "reason": refused.reason} for refused in federation.refused],
        "late": [refused.site for refused in federation.refused if is_late(refused.reason)],
        "metrics": _metrics(row, manifest.metrics.mean),
        "epsilon": row.epsilon,
        "bytes_up": row.bytes_up,
        "bytes_down": row.bytes_down,
        "seconds": row.seconds,
        "time": entry.time if entry else None,
        "reason": entry.reason if entry else None,
        "yanked": channels.yanked.get(release.version),
    }


def _metrics(row: Row, mean: Mapping[str, float]) -> dict[str, Json]:
    """Means over the sites; ``worst_site`` is the accuracy of the site called ``worst_site_name``."""
    worst = {"worst_site": row.worst_accuracy, "worst_site_name": row.worst_site}
    return {**mean, **row.shown, "accuracy": row.accuracy, **worst, "sites": dict(row.sites)}


def _failure(entry: LogEntry) -> dict[str, Json]:
    return {"version": entry.version, "round": entry.round, "time": entry.time, "reason": entry.reason}


def _move(entry: LogEntry) -> dict[str, Json]:
    told = {"event": entry.event, "version": entry.version, "channels": list(entry.channels)}
    return {**told, "time": entry.time, "actor": entry.actor, "reason": entry.reason}


def print_log(store: Store, console: Console) -> None:
    """Print the releases, newest first; columns that matter less are left out of a narrow terminal."""
    releases, history, channels = _oldest_first(store)[::-1], store.history(), store.channels()
    entries = _entries(history)
    if not releases:
        console.print("The store has no release yet: fedrelease simulate")
        return
    rows = [row_of(release.manifest, entries.get(release.digest)) for release in releases]
    pointed = [", ".join(channels.pointing_at(release.version)) or "-" for release in releases]
    when = [moment(entries[release.digest].time) if release.digest in entries else "-" for release in releases]
    put(console, fitting(console, _columns(releases, rows, pointed, when)))
    for release in releases:
        if said := why(release, entries.get(release.digest), channels):
            console.print(Text(plain(f"  {release.version}  {said}"), style="yellow"))
    for entry in history:
        if entry.event == "round-failed":
            console.print(
                Text(f"{moment(entry.time)}  round {entry.round} made no release: {entry.reason}", style="yellow")
            )


def why(release: Release, entry: LogEntry | None, channels: Channels) -> str | None:
    """Why a release is not what its verdict alone says: it was yanked, held, or rebuilt; None where there is nothing to say."""
    if release.version in channels.yanked:
        return f"yanked: {channels.yanked[release.version]}"
    reason = entry.reason if entry else None
    if release.manifest.verdict != "held":
        return reason
    return f"held: {reason.removeprefix('held: ')}" if reason else "held"


def _columns(
    releases: Sequence[Release], rows: Sequence[Row], channels: Sequence[str], when: Sequence[str]
) -> list[Column]:
    def cells(write: Callable[[Row], str]) -> list[str]:
        return [write(row) for row in rows]

    labels = [str(len(release.manifest.task.labels)) for release in releases]
    grew = [Column(header="labels>", cells=labels, rank=2)] if len(set(labels)) > 1 else []
    return [
        Column(header="version", cells=cells(lambda row: row.version)),
        Column(header="channels", cells=channels),
        Column(header="when", cells=when, rank=4),
        Column(header="phase", cells=cells(lambda row: row.phase), rank=3),
        Column(header="round>", cells=cells(lambda row: str(row.round)), rank=1),
        *grew,
        Column(header="strategy", cells=cells(lambda row: row.strategy), rank=5),
        Column(header="sites>", cells=[_took_part(release) for release in releases], rank=2),
        Column(header="accuracy>", cells=cells(lambda row: number(row.accuracy))),
        *shown_columns(rows),
        Column(header="worst site", cells=cells(_worst)),
        Column(header="epsilon>", cells=cells(lambda row: number(row.epsilon, 2))),
        Column(header="verdict", cells=cells(lambda row: row.verdict)),
    ]


def shown_columns(rows: Sequence[Row]) -> list[Column]:
    """What the tasks of these releases show beside accuracy, a column each where any release tells it."""
    names = sorted({name for row in rows for name, value in row.shown.items() if value is not None})
    return [Column(header=f"{name}>", cells=[number(row.shown.get(name)) for row in rows]) for name in names]


def _took_part(release: Release) -> str:
    """How many updates counted, of how many sites that were asked: ``3/4``."""
    federation = release.manifest.federation
    return f"{len(federation.accepted)}/{len(federation.cohort)}" if federation.cohort else "-"


def _worst(row: Row) -> str:
    return "-" if row.worst_accuracy is None else f"{row.worst_accuracy:.3f} {row.worst_site or ''}".rstrip()


def moment(time: str) -> str:
    """A time of the log on this machine's clock, to the minute."""
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M")
