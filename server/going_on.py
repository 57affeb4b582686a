"""Where a run goes on: the rounds that are left, the release that the next one starts from, and whom it may ask.

Example::

    rounds_left(store, experiment)[0].version                # '0.1.3'
    parent_of(store, experiment).version                     # '0.1.2'; '0.1.1' where 0.1.2 was held and its phase reverts

All of it follows from the store alone, so that a resumed run goes on as the one that was stopped would have.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from fedrelease.errors import ExperimentError, StoreError
from fedrelease.experiment import Experiment
from fedrelease.messages import Request
from fedrelease.population import Population
from fedrelease.server.gather import Setting
from fedrelease.server.plan import PlannedRound, planned_rounds, rounds_after
from fedrelease.server.release import Release, load, versions
from fedrelease.server.retracted import Retraction, is_rebuilt, retraction_of
from fedrelease.server.sites import Reply, Sites
from fedrelease.server.store import Store
from fedrelease.server.stragglers import Stragglers
from fedrelease.strategies import make_strategy
from fedrelease.update import State

__all__ = ["parent_of", "rounds_left", "unfinished_retraction", "without_retracted"]


def rounds_left(store: Store, experiment: Experiment) -> tuple[PlannedRound, ...]:
    """The rounds of the plan that the store has no release of.

    Raises:
        StoreError: a retraction was interrupted, so that nobody can say where the next round starts.
    """
    unfinished = unfinished_retraction(store)
    if unfinished is not None:
        site = unfinished.sites[0]
        raise StoreError(
            "a retraction was interrupted",
            value=", ".join(unfinished.sites),
            rule="rounds go on from a whole line of releases",
            hint=f"fedrelease retract {site}: it goes on where it stopped",
        )
    return rounds_after(planned_rounds(experiment), versions(store.folder), _rounds_done(store))


def _rounds_done(store: Store) -> int:
    """The highest number of a round that was run; those that were rebuilt after it may end below it."""
    done = 0
    for release in _newest_first(store):
        done = max(done, release.manifest.round)
        if not is_rebuilt(release.manifest):
            break
    return done


def unfinished_retraction(store: Store) -> Retraction | None:
    """What the newest release says of itself, if it was rebuilt and the end of its line was not."""
    head = store.head()
    told = retraction_of(head) if head is not None else None
    return told if told is not None and told.replaces != told.line else None


def parent_of(store: Store, experiment: Experiment) -> Release:
    """Where the next round starts: the head; or, where that was held in a phase that reverts, the newest one that was not.

    A rebuilt release is never gone back from: before it come those that it replaces.
    """
    reverting = {phase.name for phase in experiment.phases if phase.reverts}
    return next(
        release
        for release in _newest_first(store)
        if release.manifest.verdict == "released"
        or release.manifest.phase not in reverting
        or is_rebuilt(release.manifest)
    )


def _newest_first(store: Store) -> Iterator[Release]:
    return (load(store.folder, version) for version in reversed(versions(store.folder)))


def without_retracted(setting: Setting) -> Setting:
    """The setting of a run that goes on after a retraction: it asks nobody who was retracted.

    Raises:
        ExperimentError: sites have no names of their own; or a round that is left does not wait for all sites, whose sites may
            have begun from releases that were replaced.
    """
    gone = _retracted(setting.store)
    if not gone:
        return setting
    if isinstance(setting.sites.names(), Population):
        raise ExperimentError(
            "virtual sites cannot be left out by name",
            value=", ".join(gone),
            rule="a run that goes on after a retraction asks the others only",
            hint="begin a new store",
        )
    for planned in rounds_left(setting.store, setting.experiment):
        name, many = planned.phase.strategy, 1000
        if make_strategy(name).waits_for(many) < many:
            raise ExperimentError(
                f"phase {planned.phase.name}: {name.name} cannot go on after a retraction",
                value=", ".join(gone),
                rule="its sites may have begun from releases that were replaced",
                hint="begin a new store from the rebuilt release, or choose a strategy that waits, such as fedavg",
            )
    return replace(setting, sites=_Others(sites=setting.sites, gone=frozenset(gone)))


def _retracted(store: Store) -> tuple[str, ...]:
    """Everybody who was: each retraction names those before it too."""
    told = (retraction_of(release) for release in _newest_first(store))
    return next((one.sites for one in told if one is not None), ())


@dataclass(frozen=True, kw_only=True)
class _Others:
    """All sites but some."""

    sites: Sites
    gone: frozenset[str]

    def names(self) -> Sequence[str]:
        """The others, sorted."""
        return tuple(name for name in self.sites.names() if name not in self.gone)

    def train(
        self,
        request: Request,
        state: State,
        sites: Sequence[str],
        companions: State | None = None,
        stragglers: Stragglers | None = None,
    ) -> Iterator[Reply]:
        """As the sites answer."""
        return self.sites.train(request, state, sites, companions, stragglers)

    def evaluate(
        self, request: Request, state: State, sites: Sequence[str], stragglers: Stragglers | None = None
    ) -> Iterator[Reply]:
        """As the sites answer."""
        return self.sites.evaluate(request, state, sites, stragglers)
