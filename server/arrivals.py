"""Whose updates make a round, and from which release each site trained: all from the parent, unless the strategy does not wait.

Example::

    begun = arrivals(setting, planned, parent, strategy)          # {"site-04": "0.1.2", "site-17": "0.1.0"}
    updates = as_arrived(spool.updates(), begun, parent, setting.store, strategy)
    updates[1].metrics["staleness"]                               # 2.0: two releases came out while site-17 trained
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from torch import Tensor

from fedrelease.errors import ExperimentError
from fedrelease.server.gather import Setting
from fedrelease.server.plan import BASE_VERSION, PlannedRound, cohort, planned_rounds
from fedrelease.server.release import Release
from fedrelease.server.store import Store
from fedrelease.server.timetable import Arrivals, timetable
from fedrelease.strategies import Strategy
from fedrelease.update import State, Update

__all__ = ["StateOf", "arrivals", "as_arrived", "check_times", "starts"]


StateOf: TypeAlias = Callable[[Release], State]
"""What a site begins with that starts a round from a release."""


def _waits(strategy: Strategy, asked: Sequence[str]) -> bool:
    return strategy.waits_for(len(asked)) >= len(asked)


def check_times(setting: Setting, planned: PlannedRound, strategy: Strategy, asked: Sequence[str]) -> None:
    """Refuse a strategy that does not wait where nobody can say who arrives first.

    Raises:
        ExperimentError: the text says what to set.
    """
    if not _waits(strategy, asked) and setting.seconds_of is None:
        raise ExperimentError(
            f"phase {planned.phase.name}: {planned.phase.strategy.name} does not wait for all sites",
            value=f"{strategy.waits_for(len(asked))} of {len(asked)}",
            rule="a round that does not wait runs on virtual time, in a simulation on one machine",
            hint="set virtual_time.examples_per_s, for example to 50, or the strategy's buffer to 1.0",
        )


def arrivals(setting: Setting, planned: PlannedRound, parent: Release, strategy: Strategy) -> Arrivals:
    """The sites of a round by name, and the version that each trains from."""
    names, seed = setting.sites.names(), setting.experiment.federation.seed
    asked = cohort(planned, sites=names, seed=seed)
    check_times(setting, planned, strategy, asked)
    if _waits(strategy, asked) or setting.seconds_of is None:
        return dict.fromkeys(asked, parent.version)
    plan = planned_rounds(setting.experiment)
    rounds = [one for one in plan if _minor(one.version) == _minor(planned.version) and one.number <= planned.number]
    before = plan[rounds[0].number - 2].version if rounds[0].number > 1 else BASE_VERSION
    size = sum(tensor.nbytes for tensor in parent.state().values())
    seconds_of = partial(_seconds, setting, size)
    found = timetable(rounds, before, waits_for=strategy.waits_for, sites=names, seed=seed, seconds_of=seconds_of)
    return found[planned.version]


def _seconds(setting: Setting, size: int, site: str) -> float:
    return setting.seconds_of(site, size) if setting.seconds_of else 0.0


def _minor(version: str) -> str:
    return version.split(".")[1]


def starts(begun: Arrivals, parent: Release, store: Store, state_of: StateOf) -> Iterator[tuple[State, Sequence[str]]]:
    """Each state that somebody trains from, with the sites that do."""
    for version in sorted(set(begun.values())):
        release = parent if version == parent.version else store.find(version)
        yield dict(state_of(release)), sorted(site for site, own in begun.items() if own == version)


def as_arrived(
    updates: Sequence[Update],
    begun: Arrivals,
    parent: Release,
    store: Store,
    strategy: Strategy,
    state_of: StateOf,
) -> tuple[Update, ...]:
    """Updates with their staleness, where a site trained from an older release; led away from the parent, if the rule says so."""
    return tuple(
        update
        if begun[update.site] == parent.version
        else _late(update, store.find(begun[update.site]), parent, strategy, state_of)
        for update in updates
    )


def _late(update: Update, begun: Release, parent: Release, strategy: Strategy, state_of: StateOf) -> Update:
    behind = float(parent.manifest.round - begun.manifest.round)
    tensors = (
        _Led(delta=update.tensors, begun=state_of(begun), parent=state_of(parent))
        if strategy.from_newest
        else update.tensors
    )
    return replace(update, tensors=tensors, metrics={**update.metrics, "staleness": behind})


@dataclass(frozen=True, kw_only=True)
class _Led(Mapping[str, Tensor]):
    """Deltas from the parent to where a site ended that began elsewhere, a tensor at a time."""

    delta: State
    begun: State
    parent: State

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.parent:
            return self.delta[name]
        return self.delta[name] + (self.begun[name] - self.parent[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.delta)

    def __len__(self) -> int:
        return len(self.delta)
