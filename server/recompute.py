"""Compute a release again from the updates in its kept spool, and compare it with what was released.

Example::

    [(one.version, one.outcome) for one in recompute(store)]         # [('0.1.1', 'same'), ('0.1.2', 'no-spool')]
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrelease.errors import FedreleaseError, RetiredRelease, StoreError
from fedrelease.experiment import StrategyChoice
from fedrelease.manifest import FederationFacts
from fedrelease.server.aggregating import KeptRound, aggregate, kept_round, memory_for
from fedrelease.server.arrivals import as_arrived
from fedrelease.server.release import Release, by_digest, is_of_one_form
from fedrelease.server.retired import retirements, updates_record
from fedrelease.server.retracted import retraction_of
from fedrelease.server.spool import Spool
from fedrelease.server.store import Store
from fedrelease.strategies import Strategy, make_strategy
from fedrelease.update import State, Update, state_digest

__all__ = [
    "OUTCOMES",
    "Kept",
    "Recomputed",
    "check_not_grown",
    "kept_updates",
    "recompute",
    "strategy_of",
    "why_no_updates",
]

OUTCOMES = ("same", "differs", "no-spool", "failed")


@dataclass(frozen=True, kw_only=True)
class Recomputed:
    """What became of one release. ``what`` is a sentence; empty where it is the same."""

    version: str
    outcome: str
    what: str = ""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The updates that a release was made from, in the order of their sites' names, and what else its round knew."""

    updates: tuple[Update, ...]
    round: KeptRound | None


def recompute(store: Store, ref: str | None = None) -> Iterator[Recomputed]:
    """Go through one release, or all of them, lowest version first; the base is of no round and left out. Needs no lock.

    Guarantees: ``same`` means that every bit of the state and of the strategy's memory came out again. Nothing is raised for
    damage: it is ``failed``, with the reason.

    Raises:
        ReleaseNotFound: ``ref`` names no release.
    """
    chosen = store.releases() if ref is None else (store.find(ref),)
    return (_recomputed(store, release) for release in chosen if release.manifest.parents)


def _recomputed(store: Store, release: Release) -> Recomputed:
    try:
        kept = kept_updates(store, release)
        if kept is None:
            return Recomputed(version=release.version, outcome="no-spool", what=why_no_updates(store, release))
        wrong = _wrong(store, release, kept)
    except FedreleaseError as error:
        return Recomputed(version=release.version, outcome="failed", what=str(error))
    return Recomputed(version=release.version, outcome="differs" if wrong else "same", what=wrong)


def kept_updates(store: Store, release: Release) -> Kept | None:
    """The updates of the round that a release comes from, checked against the digests in its manifest; None where none were kept.

    A rebuilt release's lie in the spool of the round that was run, and those of retracted sites are left out.

    Raises:
        StoreError: one of them is missing or is not what was accepted.
    """
    told = retraction_of(release)
    ran = by_digest(store.folder, told.round.digest) if told else release
    folder = store.folder / "spool" / ran.version
    if not folder.is_dir():
        return None
    found = {update.site: update for update in Spool(folder, parent=ran.manifest.parents[0]).updates()}
    accepted = {one.site: one.update for one in ran.manifest.federation.accepted}
    if wrong := [site for site, sha256 in accepted.items() if site not in found or found[site].digest != sha256]:
        raise StoreError(
            f"the spool of {ran.version} has not the update that was accepted from {', '.join(wrong)}",
            value=f"spool/{ran.version}",
            rule="each update has the digest of the manifest",
            hint="restore that folder from a copy of the store",
        )
    counted = [site for site in accepted if not (told and site in told.sites)]
    return Kept(updates=tuple(found[site] for site in counted), round=None if told else kept_round(folder))


def why_no_updates(store: Store, release: Release) -> str:
    """Why :func:`kept_updates` finds none."""
    told = retraction_of(release)
    record = updates_record(retirements(store.folder), told.round.version if told else release.version)
    return f"its updates were retired on {record.time[:10]}" if record else "its updates were not kept"


def strategy_of(federation: FederationFacts, kept: Kept, eligible: int | None = None) -> Strategy:
    """The strategy of a round, with its knobs, for as many sites as its phase could ask.

    Args:
        eligible: how many those are; ``None`` for what the kept round says.

    Raises:
        StoreError: the strategy depends on that number, and nobody kept it.
    """
    strategy = make_strategy(StrategyChoice(name=federation.strategy, knobs=dict(federation.strategy_params)))
    if eligible is None and kept.round is not None:
        eligible = kept.round.eligible
    if eligible is not None:
        return strategy.among(eligible)
    if strategy.among(1) != strategy.among(2):
        raise StoreError(
            f"{federation.strategy} cannot be computed again",
            value=federation.strategy,
            rule="it divides by the number of sites that could be asked, which this spool does not tell",
        )
    return strategy


def _wrong(store: Store, release: Release, kept: Kept) -> str:
    """What differs; empty where nothing does. Threads change the order of some sums: one, then as many as there are."""
    check_not_grown(release)
    parent = by_digest(store.folder, release.manifest.parents[0])
    strategy = _strategy(store, release, kept)
    before = parent.manifest.federation.strategy
    memory = memory_for(release.manifest.federation.strategy, before, parent.memory())
    updates = _arrived(store, release, parent, kept, strategy)
    wrong = ""
    for threads in dict.fromkeys((1, torch.get_num_threads())):
        with _threads(threads):
            state, after = aggregate(strategy, parent.state(), updates, memory, version=release.version)
        wrong = _differing(release, state, after)
        if not wrong:
            break
    return wrong


def check_not_grown(release: Release) -> None:
    """Refuse a round that added labels or grew the adapter.

    Raises:
        StoreError: its sites started from more than its parent: what is new is that of a model drawn on the base.
    """
    parent = by_digest(release.root, release.manifest.parents[0])
    added = [label for label in release.manifest.task.labels if label not in parent.manifest.task.labels]
    if added:
        raise StoreError(
            f"{release.version} added labels, and is not computed again",
            value=", ".join(added),
            rule="a store does not hold the rows that new labels began with",
        )
    if not is_of_one_form(parent, release):
        raise StoreError(
            f"{release.version} grew the adapter, and is not computed again",
            value=f"{parent.version} -> {release.version}",
            rule="a store does not hold what new ranks and modules began with",
        )


def _strategy(store: Store, release: Release, kept: Kept) -> Strategy:
    """A rebuilt release's round told how many sites there were in the spool of the round that was run."""
    told = retraction_of(release)
    ran = kept_round(store.folder / "spool" / told.round.version) if told else None
    return strategy_of(release.manifest.federation, kept, ran.eligible if ran else None)


def _arrived(store: Store, release: Release, parent: Release, kept: Kept, strategy: Strategy) -> Sequence[Update]:
    cohort = len(release.manifest.federation.cohort)
    if kept.round is not None:
        return as_arrived(kept.updates, kept.round.begun, parent, store, strategy, lambda begun: begun.state())
    if strategy.waits_for(cohort) < cohort:
        raise StoreError(
            f"{release.manifest.federation.strategy} cannot be computed again",
            value=release.version,
            rule="it does not wait for all sites, and this spool does not tell which release each of them began from",
        )
    return kept.updates


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _differing(release: Release, state: State, memory: State) -> str:
    said = [
        f"{role}: {', '.join(names)}"
        for role, names in (
            ("state", _names(release, "adapter", state, release.state)),
            ("memory", _names(release, "memory", memory, release.memory)),
        )
        if names
    ]
    return "; ".join(said)


def _names(release: Release, role: str, found: State, read: Callable[[], State]) -> list[str]:
    """Tensors that are not bit for bit what was released; none where the digests of the files are the same.

    What was released is read only where they are not: it may be retired, and then nobody can say which tensors.
    """
    digests = [entry.sha256 for entry in release.manifest.files if entry.role == role]
    if digests == ([state_digest(found)] if found else []):
        return []
    try:
        released = read()
    except RetiredRelease:
        return ["its bytes"]
    every = sorted({*found, *released})
    return [name for name in every if not _same(found, released, name)] or ["its bytes"]


def _same(found: Mapping[str, Tensor], released: Mapping[str, Tensor], name: str) -> bool:
    if name not in found or name not in released:
        return False
    one, other = found[name], released[name]
    return one.dtype == other.dtype and torch.equal(one, other)
