"""Retire what is large about old releases, by the experiment's ``[retention]``; manifests, reports, signatures and log stay.

Example::

    planned = to_retire(store, retention_of(store))        # reads only
    with store.lock():
        retire(store, retention_of(store), by=By())        # recorded in the log and the channels' chain, then gone
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment
from fedrelease.experiment_file import load_experiment
from fedrelease.files import sync_folder
from fedrelease.manifest import FileEntry, version_key
from fedrelease.retention import Retention
from fedrelease.server import layout
from fedrelease.server.blobs import blob_path, disk_errors
from fedrelease.server.channels import Move, Retired
from fedrelease.server.journal import LogEntry
from fedrelease.server.lifecycle import By
from fedrelease.server.needed import needs, ran_as
from fedrelease.server.packed import packed_path
from fedrelease.server.references import keyframe_of
from fedrelease.server.release import Release, versions
from fedrelease.server.retired import file_record, retirements, updates_record
from fedrelease.server.store import Store
from fedrelease.server.sweep import keeps_updates
from fedrelease.update import forget_open_files

__all__ = ["Leaving", "Retirement", "Staying", "retention_of", "retire", "to_retire"]

KINDS = {"adapter": "weights", "items": "items", "memory": "memory", "weights": "weights"}
"""Role of a file that goes -> what the user reads. All other files are small, and tell what the release was."""


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """One thing that goes, by its name below the store.

    Attributes:
        kind: ``weights``, ``items``, ``memory`` or ``updates``.
        version: of the newest release that has it.
        size: bytes on disk; 0 where it is gone already and nothing says so yet.
        rule: by which it goes.
        recorded: an earlier gc, which did not come to its end, has said so.
    """

    kind: str
    version: str
    path: str
    size: int
    rule: str
    recorded: bool


@dataclass(frozen=True, kw_only=True)
class Staying:
    """A release beyond the numbers that stays all the same."""

    version: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Retirement:
    """What goes, and what stays though the numbers would let it go."""

    leaving: tuple[Leaving, ...] = ()
    staying: tuple[Staying, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that become free."""
        return sum(one.size for one in self.leaving)


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Versions that keep what; of the others, the rule that says so."""

    weights: Mapping[str, str | None]
    memory: Mapping[str, str | None]

    def rule(self, version: str, role: str) -> str | None:
        """Why this file of the release goes; None: it stays."""
        return (self.memory if role == "memory" else self.weights)[version]


def retention_of(store: Store, overrides: Sequence[str] = ()) -> Retention:
    """What the store's own experiment says, with ``retention.KEY=N`` on top; everything stays where it says nothing.

    Raises:
        ExperimentError: an override is of another section, or out of bounds; or the store's experiment cannot be read.
    """
    for typed in overrides:
        if not typed.startswith("retention."):
            hint = "--set retention.releases=20"
            raise ExperimentError(f"--set {typed}: gc knows the keys of [retention] only", value=typed, hint=hint)
    path = store.folder / "experiment.toml"
    return load_experiment(path if path.is_file() else None, overrides).retention


def to_retire(store: Store, retention: Retention) -> Retirement:
    """What these rules let go. Needs no lock.

    Guarantees: nothing that a channel points at or would go back to first; no base, no anchor, nothing that the next round or
    a round whose updates stay is computed from; no file that a release which stays has too, or whose packed form stands on it.

    Raises:
        StoreError: a retraction was interrupted.
        DamagedRelease: what cannot be read may need anything.
    """
    if retention.keeps_all:
        return Retirement()
    releases = store.releases()
    rounds = _kept_rounds(store, releases, retention.updates)
    kept, staying = _kept(store, releases, retention, rounds)
    leaving = (*_files(store.folder, releases, kept), *_spools(store.folder, rounds, retention))
    return Retirement(leaving=leaving, staying=staying)


def retire(store: Store, retention: Retention, *, by: By) -> Retirement:
    """Record what :func:`to_retire` finds, then remove it. The caller holds the store's lock.

    Guarantees: what is gone is recorded. After a kill in between, the next call with the same rules goes on.
    """
    found, root = to_retire(store, retention), store.folder
    new = [one for one in found.leaving if not one.recorded]
    with disk_errors(root):
        if new:
            layout.allow_retired(root)
            _record(store, new, by)
        forget_open_files()  # of spools
        for one in found.leaving:
            _remove(root, one)
        for room in {(root / one.path).parent for one in found.leaving}:
            if room.is_dir():
                sync_folder(room)
    return found


def _kept_rounds(store: Store, releases: Sequence[Release], count: int | None) -> frozenset[str]:
    """Rounds whose updates lie in the store and stay."""
    newest = [release for release in reversed(releases) if release.manifest.parents][:count]
    there = {path.name for path in (store.folder / "spool").glob("*")}
    return frozenset({ran_as(release) for release in newest} & there)


def _kept(
    store: Store, releases: Sequence[Release], retention: Retention, rounds: frozenset[str]
) -> tuple[_Kept, tuple[Staying, ...]]:
    weights = _by_number(releases, retention)
    memory = dict.fromkeys(weights) | {
        one.version: f"retention.memory = {retention.memory}"
        for one in (releases[: max(0, len(releases) - retention.memory)] if retention.memory is not None else ())
    }
    reasons = dict[str, list[str]]()
    for need in needs(store, _experiment(store), rounds=rounds):
        if weights[need.version] is not None or need.version in reasons:
            reasons.setdefault(need.version, []).append(need.why)
        weights[need.version] = None
        if need.memory:
            memory[need.version] = None
    memory |= {version: rule for version, rule in weights.items() if rule is not None}
    staying = tuple(Staying(version=one, why="; ".join(reasons[one])) for one in sorted(reasons, key=version_key))
    return _Kept(weights=weights, memory=memory), staying


def _by_number(releases: Sequence[Release], retention: Retention) -> dict[str, str | None]:
    """Version -> the number that lets it go; None for the newest so many of its verdict."""
    found = dict[str, str | None]()
    for verdict, key, count in (("released", "releases", retention.releases), ("held", "held", retention.held)):
        same = [release.version for release in reversed(releases) if release.manifest.verdict == verdict]
        last = len(same) if count is None else count
        found |= {version: None if at < last else f"retention.{key} = {count}" for at, version in enumerate(same)}
    return found


def _experiment(store: Store) -> Experiment | None:
    path = store.folder / "experiment.toml"
    return load_experiment(path) if path.is_file() else None


def _files(root: Path, releases: Sequence[Release], kept: _Kept) -> Iterator[Leaving]:
    """By their newest release; files are shared, and one that any release keeps stays."""
    every = [(release.version, file) for release in releases for file in release.manifest.files]
    stays = {file.sha256 for version, file in every if file.role not in KINDS or not kept.rule(version, file.role)}
    new = set(stays)
    while new:  # a keyframe may stand on another
        new = {frame for sha256 in new if (frame := keyframe_of(root, sha256)) is not None} - stays
        stays |= new
    records = retirements(root)
    going = {file.sha256: (version, file) for version, file in every if file.sha256 not in stays}
    for version, file in going.values():
        recorded = file_record(records, version, file.sha256) is not None
        size = sum(path.stat().st_size for path in _forms(root, file.sha256) if path.is_file())
        if size or not recorded:
            yield _leaving(version, file, size, kept.rule(version, file.role) or "", recorded=recorded)


def _leaving(version: str, file: FileEntry, size: int, rule: str, *, recorded: bool) -> Leaving:
    path = f"blobs/sha256/{file.sha256}"
    return Leaving(kind=KINDS[file.role], version=version, path=path, size=size, rule=rule, recorded=recorded)


def _spools(root: Path, rounds: frozenset[str], retention: Retention) -> Iterator[Leaving]:
    """Kept updates of released rounds; those that nobody meant to keep are swept anyway."""
    records = retirements(root) if retention.updates is not None else ()
    for version in versions(root) if retention.updates is not None else ():
        folder = root / "spool" / version
        if version not in rounds and folder.is_dir() and keeps_updates(root, version):
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            recorded = updates_record(records, version) is not None
            rule = f"retention.updates = {retention.updates}"
            path = f"spool/{version}"
            yield Leaving(kind="updates", version=version, path=path, size=size, rule=rule, recorded=recorded)


def _record(store: Store, new: Sequence[Leaving], by: By) -> None:
    """A generation with the list, signed as all are, and its line of the log."""
    head, now = store.releases()[-1], store.channels()
    retired = Retired(
        head=head.version,
        files=tuple(sorted(Path(one.path).name for one in new if one.kind != "updates")),
        rounds=tuple(sorted((one.version for one in new if one.kind == "updates"), key=version_key)),
    )
    reason = ", ".join(sorted({one.rule for one in new}))
    move = Move(verb="retire", actor=by.actor, time=by.time, reason=reason, retired=retired)
    line = LogEntry(
        version=head.version,
        digest=head.digest,
        event=move.verb,
        phase=head.manifest.phase,
        round=head.manifest.round,
        time=move.time,
        reason=reason,
        actor=move.actor,
    )
    store.move(now.again(move), line)


def _forms(root: Path, sha256: str) -> tuple[Path, Path]:
    return blob_path(root, sha256), packed_path(root, sha256)


def _remove(root: Path, one: Leaving) -> None:
    if one.kind == "updates":  # first out of the way, so that nobody ever finds half of a round's updates
        aside = root / "tmp" / uuid4().hex
        (root / one.path).replace(aside)
        shutil.rmtree(aside)
        return
    for path in _forms(root, Path(one.path).name):
        path.unlink(missing_ok=True)
