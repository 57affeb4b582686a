"""Which releases something still needs, whatever the numbers of ``[retention]`` say, and why.

Example::

    [(need.version, need.why) for need in needs(store, experiment, rounds=())]
    # [('0.0.0', 'it is the base'), ('0.1.4', 'stable points at it'), ('0.1.3', 'stable would go back to it') ...]
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from fedrelease.experiment import Experiment
from fedrelease.manifest import parse_version
from fedrelease.server.aggregating import kept_round
from fedrelease.server.going_on import parent_of, rounds_left
from fedrelease.server.lifecycle import anchor, goes_back_to
from fedrelease.server.release import Release, by_digest
from fedrelease.server.retracted import retraction_of
from fedrelease.server.store import Store
from fedrelease.strategies import make_strategy

__all__ = ["Need", "needs", "ran_as"]

MANY = 1000
"""A strategy that waits for fewer of so many sites does not wait for all."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """A release whose weights stay, and with ``memory`` its strategy's memory too."""

    version: str
    why: str
    memory: bool = False


def needs(store: Store, experiment: Experiment | None, *, rounds: Collection[str]) -> Iterator[Need]:
    """Every need; a release may have several.

    Args:
        experiment: what the store goes on with; None where nobody knows.
        rounds: those whose kept updates stay.

    Raises:
        StoreError: a retraction was interrupted, so that nobody can say what it still needs.
    """
    releases = store.releases()
    yield from (Need(version=one.version, why="it is the base") for one in releases if not one.manifest.parents)
    yield from _of_channels(store)
    yield from _of_the_next_round(store, experiment, releases)
    yield from _of_updates(store, releases, rounds)


def _of_channels(store: Store) -> Iterator[Need]:
    """What channels point at, what each would go back to first, and what candidates are compared with for good."""
    now = store.channels()
    for name, pointer in sorted(now.channels.items()):
        yield Need(version=pointer.version, why=f"{name} points at it")
        below = goes_back_to(store, name, now.yanked)
        if below is not None:
            yield Need(version=below.version, why=f"{name} would go back to it")
    pinned = anchor(store)
    if pinned is not None:
        yield Need(version=pinned.version, why="candidates are compared with it, the anchor")


def _of_the_next_round(store: Store, experiment: Experiment | None, releases: Sequence[Release]) -> Iterator[Need]:
    """Where it starts, what that step is compared with, and where sites may have begun that are still under way."""
    if not releases:
        return
    yield Need(version=releases[-1].version, why="it is the newest", memory=True)
    parent = parent_of(store, experiment) if experiment else releases[-1]
    yield Need(version=parent.version, why="the next round starts from it", memory=True)
    for digest in parent.manifest.parents:
        why = "the next step is compared with the one from it"
        yield Need(version=by_digest(store.folder, digest).version, why=why)
    if experiment is not None:
        yield from _of_late_sites(store, experiment, releases)


def _of_late_sites(store: Store, experiment: Experiment, releases: Sequence[Release]) -> Iterator[Need]:
    """Where a phase does not wait, any of its releases, and the one before them, may be where a site began."""
    left = rounds_left(store, experiment)
    late = {one.version for one in left if make_strategy(one.phase.strategy).waits_for(MANY) < MANY}
    for minor in {parse_version(version).minor for version in late}:
        before = [release for release in releases if parse_version(release.version).minor < minor][-1:]
        during = [release for release in releases if parse_version(release.version).minor == minor]
        for release in (*before, *during):
            yield Need(version=release.version, why="a site that is under way may have begun from it")


def _of_updates(store: Store, releases: Sequence[Release], rounds: Collection[str]) -> Iterator[Need]:
    """What the rounds whose updates stay are computed from."""
    for release in releases:
        ran = ran_as(release)
        if not release.manifest.parents or ran not in rounds:
            continue
        why = f"the updates of {release.version} are kept, which was computed from it"
        parent = by_digest(store.folder, release.manifest.parents[0])
        yield Need(version=parent.version, why=why, memory=True)
        kept = kept_round(store.folder / "spool" / ran)
        yield from (Need(version=begun, why=why) for begun in sorted({*kept.begun.values()} if kept else ()))


def ran_as(release: Release) -> str:
    """The version of the round that a release comes from: of a rebuilt one, the round that was run."""
    told = retraction_of(release)
    return told.round.version if told else release.version
