"""Compute a release again from the updates in its kept spool, and compare it with what was released.

Example::

    [(one.version, one.outcome) for one in recompute(store)]         # [('0.1.1', 'same'), ('0.1.2', 'no-spool')]
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrelease.errors import FedreleaseError, NoBase, RetiredRelease, StoreError
from fedrelease.experiment import StrategyChoice
from fedrelease.growth import grown_with_zeros
from fedrelease.manifest import FederationFacts
from fedrelease.server.aggregating import KeptRound, aggregate, kept_round, memory_for
from fedrelease.server.arrivals import StateOf, as_arrived
from fedrelease.server.beginnings import Beginnings
from fedrelease.server.channels import Move
from fedrelease.server.release import Release, by_digest
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
    "kept_updates",
    "recompute",
    "strategy_of",
]

OUTCOMES = ("same", "differs", "no-spool", "no-base", "failed")


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


def recompute(store: Store, ref: str | None = None, *, beginnings: Beginnings | None = None) -> Iterator[Recomputed]:
    """Go through one release, or all of them, lowest version first; the base is of no round and left out. Needs no lock.

    Rounds that added something need their base, which ``beginnings`` finds; without it they are ``no-base``.

    Guarantees: ``same`` means that every bit of the state and of the strategy's memory came out again. Nothing is raised for
    damage: it is ``failed``, with the reason.

    Raises:
        ReleaseNotFound: ``ref`` names no release.
    """
    chosen, begun = store.releases() if ref is None else (store.find(ref),), beginnings or Beginnings(None)
    records = retirements(store.folder)
    return (_recomputed(store, release, begun, records) for release in chosen if release.manifest.parents)


def _recomputed(store: Store, release: Release, beginnings: Beginnings, records: Sequence[Move]) -> Recomputed:
    try:
        kept = kept_updates(store, release)
        if kept is None:
            return Recomputed(version=release.version, outcome="no-spool", what=_why_no_updates(release, records))
        wrong = _wrong(store, release, kept, beginnings.states(release))
    except NoBase as error:
        return Recomputed(version=release.version, outcome="no-base", what=error.what)
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


def _why_no_updates(release: Release, records: Sequence[Move]) -> str:
    """Why :func:`kept_updates` finds none."""
    told = retraction_of(release)
    record = updates_record(records, told.round.version if told else release.version)
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


def _wrong(store: Store, release: Release, kept: Kept, state_of: StateOf) -> str:
    """What differs; empty where nothing does. Threads change the order of some sums: one, then as many as there are."""
    parent = by_digest(store.folder, release.manifest.parents[0])
    strategy = _strategy(store, release, kept)
    before = parent.manifest.federation.strategy
    began = dict(state_of(parent))
    memory = grown_with_zeros(memory_for(release.manifest.federation.strategy, before, parent.memory()), like=began)
    updates = _arrived(store, release, parent, kept, strategy, state_of)
    wrong = ""
    for threads in dict.fromkeys((1, torch.get_num_threads())):
        with _threads(threads):
            state, after = aggregate(strategy, began, updates, memory, version=release.version)
        wrong = _differing(release, state, after)
        if not wrong:
            break
    return wrong


def _strategy(store: Store, release: Release, kept: Kept) -> Strategy:
    """A rebuilt release's round told how many sites there were in the spool of the round that was run."""
    told = retraction_of(release)
    ran = kept_round(store.folder / "spool" / told.round.version) if told else None
    return strategy_of(release.manifest.federation, kept, ran.eligible if ran else None)


def _arrived(
    store: Store, release: Release, parent: Release, kept: Kept, strategy: Strategy, state_of: StateOf
) -> Sequence[Update]:
    cohort = len(release.manifest.federation.cohort)
    if kept.round is not None:
        return as_arrived(kept.updates, kept.round.begun, parent, store, strategy, state_of)
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
