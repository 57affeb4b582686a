"""Moving releases through channels by hand: promote, rollback, yank, pause. Each move is a new generation with actor and reason.

Example::

    with store.lock():
        promote(store, "0.2.1", to="stable", by=By(actor="ada", reason="two weeks in beta"))
        rollback(store, "stable", by=By(actor="ada", reason="complaints from site B"))      # back to what was serving before
        yank(store, "0.2.1", by=By(actor="ada", reason="trained on a corrupt export"))      # nobody is given it any more
"""

import getpass
import os
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field

from fedrelease.errors import DamagedRelease, RetiredRelease, StoreError
from fedrelease.server.channels import Channels, Move, Pointer, check_channel, served
from fedrelease.server.journal import LogEntry, utc_now
from fedrelease.server.release import Release, load
from fedrelease.server.store import Store

__all__ = ["By", "Moved", "anchor", "goes_back_to", "pause", "promote", "resume", "rollback", "unyank", "yank"]


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        return f"uid {os.getuid()}"


@dataclass(frozen=True, kw_only=True)
class By:
    """Who moves a channel, and why."""

    reason: str | None = None
    actor: str = field(default_factory=_me)
    time: str = field(default_factory=utc_now)


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What a move did: channel -> version before and after (None: the channel is gone). Empty: all was so already."""

    verb: str
    version: str
    generation: int
    before: Mapping[str, str | None]
    after: Mapping[str, str | None]


def promote(store: Store, ref: str, *, to: str, by: By) -> Moved:
    """Point a channel at a release.

    Raises:
        ReleaseNotFound: nothing is called so.
        StoreError: the channel is unknown or paused; or the release was held by its gates, or yanked.
        DamagedRelease: a file of the release is not what was released.
        RetiredRelease: its weights are gone by the rules of retention.
    """
    check_channel(to)
    release, now = store.find(ref), store.channels()
    _check_moves(now, to)
    _check_servable(release, now)
    return _move(store, release, {to: _pointer(release)}, "promote", by)


def rollback(store: Store, channel: str, *, by: By) -> Moved:
    """Point a channel at what it pointed at before, past releases that were yanked; that is looked at before the pointer moves.

    Raises:
        StoreError: the channel is unknown or points at nothing, or there is nothing before it.
        DamagedRelease: a file of the release before it is not what was released.
        RetiredRelease: its weights are gone by the rules of retention; nothing further back is taken instead.
    """
    check_channel(channel)
    now = store.channels()
    below = goes_back_to(store, channel, now.yanked)
    if below is None:
        known = now.channels.get(channel)
        raise StoreError(
            f"{channel} has nothing to go back to",
            value=known.version if known else "points at nothing",
            rule="a rollback goes to what was serving before",
            hint=f"fedrelease promote VERSION --to {channel}",
        )
    release = load(store.folder, below.version)
    _check_servable(release, now)
    return _move(store, release, {channel: below}, "rollback", by)


def yank(store: Store, ref: str, *, by: By) -> Moved:
    """Take a release from everybody: its channels go back to what they pointed at before, and it cannot be promoted.

    It stays in the store: rounds that came from it are still explained by it, and whoever names its version exactly gets it.

    Raises:
        ReleaseNotFound: nothing is called so.
        StoreError: no reason was given.
    """
    if not by.reason:
        raise StoreError(
            "a release is yanked for a reason", value=ref, hint='say it: --reason "wrong labels at site B"'
        )
    release, now = store.find(ref), store.channels()
    yanked = {**now.yanked, release.version: by.reason}
    targets = {channel: goes_back_to(store, channel, yanked) for channel in now.pointing_at(release.version)}
    return _move(store, release, targets, "yank", by, yanked=yanked)


def unyank(store: Store, ref: str, *, by: By) -> Moved:
    """Let a yanked release be promoted again; no channel moves."""
    release, now = store.find(ref), store.channels()
    left = {version: why for version, why in now.yanked.items() if version != release.version}
    return _move(store, release, {}, "unyank", by, yanked=left)


def pause(store: Store, channel: str, *, by: By) -> Moved:
    """Let neither rounds nor ``promote`` move a channel; a rollback still does.

    Raises:
        StoreError: the channel is unknown, or the store has no release.
    """
    check_channel(channel)
    return _pausing(store, channel, "pause", by, {*store.channels().paused, channel})


def resume(store: Store, channel: str, *, by: By) -> Moved:
    """Let a paused channel move again.

    Raises:
        StoreError: the channel is unknown, or the store has no release.
    """
    check_channel(channel)
    return _pausing(store, channel, "resume", by, {*store.channels().paused} - {channel})


def anchor(store: Store) -> Release | None:
    """What candidates are compared with for good: the pinned anchor, else the first release that ``stable`` ever pointed at."""
    now = store.channels()
    if pinned := now.channels.get("anchor"):
        return load(store.folder, pinned.version)
    first = store.first_pointed("stable")
    return load(store.folder, first.version) if first else None


def _pausing(store: Store, channel: str, verb: str, by: By, paused: set[str]) -> Moved:
    head = store.head()
    if head is None:
        raise StoreError("the store has no release yet", value=channel, hint="fedrelease simulate")
    pointer = store.channels().channels.get(channel)
    about = load(store.folder, pointer.version) if pointer else head
    return _move(store, about, {}, verb, by, paused=tuple(paused))


def _move(
    store: Store,
    about: Release,
    targets: Mapping[str, Pointer | None],
    verb: str,
    by: By,
    *,
    paused: tuple[str, ...] | None = None,
    yanked: Mapping[str, str] | None = None,
) -> Moved:
    now = store.channels()
    move = Move(verb=verb, actor=by.actor, time=by.time, reason=by.reason)
    moved = now.then(targets, move, paused=paused, yanked=yanked)
    if moved is not now:
        store.move(moved, _line(about, tuple(sorted(targets)), move))
    return Moved(
        verb=verb,
        version=about.version,
        generation=moved.generation,
        before={name: _version(now, name) for name in sorted(targets)} if moved is not now else {},
        after={name: _version(moved, name) for name in sorted(targets)} if moved is not now else {},
    )


def _line(about: Release, moving: tuple[str, ...], move: Move) -> LogEntry:
    return LogEntry(
        version=about.version,
        digest=about.digest,
        event=move.verb,
        phase=about.manifest.phase,
        round=about.manifest.round,
        time=move.time,
        channels=moving,
        reason=move.reason,
        actor=move.actor,
    )


def _version(channels: Channels, name: str) -> str | None:
    return channels.channels[name].version if name in channels.channels else None


def _pointer(release: Release) -> Pointer:
    return Pointer(version=release.version, digest=release.digest)


def goes_back_to(store: Store, channel: str, yanked: Mapping[str, str]) -> Pointer | None:
    """The newest release that a channel pointed at before the one it points at now, and that nobody yanked."""
    before = served(store.folder, channel)[:-1]
    return next((pointer for pointer in reversed(before) if pointer.version not in yanked), None)


def _check_moves(now: Channels, channel: str) -> None:
    if channel in now.paused:
        raise StoreError(
            f"{channel} is paused",
            value=channel,
            rule="a paused channel moves back only",
            hint=f"fedrelease resume {channel}",
        )


def _check_servable(release: Release, now: Channels) -> None:
    """Released, not yanked, every byte in place and its tensors readable; a strategy's memory serves nobody."""
    if release.manifest.verdict != "released":
        raise StoreError(
            f"{release.version} was held by its gates",
            value=release.version,
            rule="a held release gets no channel",
            hint=f"fedrelease gate {release.version} says why",
        )
    if release.version in now.yanked:
        raise StoreError(
            f"{release.version} was yanked: {now.yanked[release.version]}",
            value=release.version,
            rule="a yanked release gets no channel",
            hint=f"fedrelease yank --undo {release.version}, or promote another one",
        )
    for entry in release.manifest.files:
        with suppress(RetiredRelease) if entry.role == "memory" else nullcontext():
            release.path(entry.path)
    if not release.state():
        raise DamagedRelease(f"{release.version} has no tensors", value=release.version)
