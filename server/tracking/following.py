"""Follow a federation with trackers: what the store has and a tracker lacks is told there, after every release and at the end.

Example::

    with followed(store, experiment, tracking, watch=watch) as watch:
        run_rounds(Setting(..., watch=watch))

The store is the truth, and a tracker its copy: releases of an interrupted run, or from before anybody tracked, come along. A
tracker that fails is left out from then on, with one warning; it never stops or changes a federation.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast, final

from fedrelease.errors import StoreError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import flat, to_document
from fedrelease.files import Json
from fedrelease.server.events import Event, Released, Watcher
from fedrelease.server.journal import RELEASES
from fedrelease.server.release import Release, load, versions
from fedrelease.server.store import Store
from fedrelease.server.tracking.choice import TRACKERS, Choice, Tracking
from fedrelease.server.tracking.links import Link, keep_link, last_link, links_of
from fedrelease.server.tracking.measured import Cost, measured
from fedrelease.server.tracking.runs import Beginning, Ending, Parameter, TrackerRun, open_run
from fedrelease.wording import plain

__all__ = ["followed", "parameters_of", "tell_releases"]

LONGEST = 160
_SECRET = re.compile(r"//[^/@\s]*@")


@contextmanager
def followed(store: Store, experiment: Experiment, tracking: Tracking, *, watch: Watcher) -> Iterator[Watcher]:
    """A watcher that tells ``watch`` first, and then the trackers; at the end of the block they get what is still missing.

    The events come from who holds the store's lock; at the end it must be free.
    """
    if not tracking.choices:
        yield watch
        return
    following = _Following(store, experiment, tracking)

    def both(event: Event) -> None:
        watch(event)
        following.hear(event)

    complete = False
    try:
        yield both
        complete = True
    finally:
        following.end(complete=complete)


def tell_releases(store: Store, experiment: Experiment, tracking: Tracking) -> None:
    """Tell the trackers what they lack of a store in which nothing runs."""
    with followed(store, experiment, tracking, watch=lambda event: None):
        pass


def parameters_of(experiment: Experiment) -> dict[str, Parameter]:
    """The resolved experiment, ``{"training.lr": 0.001, ...}``; where the store lies is no parameter."""
    found = flat(cast(Json, to_document(experiment)))
    told = {key: value for key, value in found.items() if key != "federation.store"}
    return {key: value if isinstance(value, str | int | float | bool) else str(value) for key, value in told.items()}


@final
class _Line:
    """One tracker, and what of the store it has."""

    def __init__(self, store: Store, experiment: Experiment, tracking: Tracking, choice: Choice) -> None:
        self.title = TRACKERS[choice.kind].title
        self._choice = choice
        self._store, self._experiment = store, experiment
        self._name = tracking.name or store.folder.absolute().name
        self._where = choice.where(store.folder.absolute())
        self._run: TrackerRun | None = None
        self._link: Link | None = None
        self._looked = False
        self._has = set[str]()

    def catch_up(self, costs: "_Costs") -> None:
        """Tell what is missing, oldest first; a release is linked once it is told. Nothing is opened where nothing is missing."""
        if not self._looked:  # not before: a store that cannot be read must not stop what has not begun
            self._link = last_link(self._store.folder, tracker=self._choice.kind, where=self._where)
            self._looked = True
        if not self._missing():
            return
        run, link = self._opened()
        for release in self._missing():
            run.release(measured(release.manifest, costs.of(release)))
            keep_link(self._store.folder, release.digest, link)
            self._has.add(release.version)

    def _missing(self) -> list[Release]:
        """Releases that are not linked to the run, which is another one where the earlier one is gone."""
        root = self._store.folder
        found = [load(root, version) for version in versions(root) if version not in self._has]
        self._has |= {release.version for release in found if self._link in links_of(release)}
        return [release for release in found if release.version not in self._has]

    def _opened(self) -> tuple[TrackerRun, Link]:
        if self._run is None or self._link is None:
            begun = Beginning(
                federation=self._experiment.federation.name,
                name=self._name,
                run=self._link.run if self._link else None,
                parameters=parameters_of(self._experiment),
            )
            self._run = open_run(self._choice, begun)
            if self._link is None or self._link.run != self._run.id:
                self._link = Link(tracker=self._choice.kind, run=self._run.id, where=self._where)
                self._has.clear()
        return self._run, self._link

    def end(self, ending: Ending) -> None:
        """Close the run, if one was opened."""
        if self._run is not None:
            self._run.end(ending)


@final
class _Costs:
    """What rounds took: the one that has just ended from its event, others from the log, which is read once."""

    def __init__(self, store: Store, event: Released | None = None) -> None:
        self._store, self._event = store, event
        self._log: Mapping[str | None, Cost] | None = None

    def of(self, release: Release) -> Cost | None:
        if self._event is not None and self._event.digest == release.digest:
            return self._event
        if self._log is None:
            self._log = {entry.digest: entry for entry in self._store.history() if entry.event in RELEASES}
        return self._log.get(release.digest)


@final
class _Following:
    """All trackers of a run that still work."""

    def __init__(self, store: Store, experiment: Experiment, tracking: Tracking) -> None:
        self._store, self._warn = store, tracking.warn
        self._lines = [_Line(store, experiment, tracking, choice) for choice in tracking.choices]

    def hear(self, event: Event) -> None:
        """After a release: whoever tells of it holds the store's lock."""
        if isinstance(event, Released):
            self._catch_up(_Costs(self._store, event))

    def end(self, *, complete: bool) -> None:
        """Tell what is left, where all is well, and how it ended."""
        if complete:
            try:
                with self._store.lock():
                    self._catch_up(_Costs(self._store))
            except StoreError as error:
                self._warn(f"tracking: not all releases were told: {_reason(error)}")
        facts = self._facts()
        for line in tuple(self._lines):
            try:
                line.end(Ending(complete=complete, facts=facts))
            except Exception as error:  # of whatever kind: see _catch_up
                self._leave(line, error)

    def _facts(self) -> dict[str, str]:
        try:
            head = self._store.head()
        except StoreError:  # whoever runs the federation tells of that
            head = None
        name = {"store": self._store.folder.absolute().name}
        return name | ({"head": head.version, "head_digest": head.digest} if head else {})

    def _catch_up(self, costs: _Costs) -> None:
        for line in tuple(self._lines):
            try:
                line.catch_up(costs)
            except (
                Exception
            ) as error:  # three libraries, disks and networks: no failure of a tracker may end a federation
                self._leave(line, error)

    def _leave(self, line: _Line, error: Exception) -> None:
        self._lines.remove(line)
        self._warn(f"tracking: {line.title} is left out from now on: {_reason(error)}")


def _reason(error: Exception) -> str:
    """One line without what stands before an ``@`` in an address."""
    told = str(error).strip().split("\n")[0]
    return plain(_SECRET.sub("//", f"{type(error).__name__}: {told}" if told else type(error).__name__))[:LONGEST]
