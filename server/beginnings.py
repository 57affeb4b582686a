"""What a round of the past began with: its parent's state and memory, grown to what the round had, as the round itself grew them.

Example::

    begun = Beginnings(cache_folder())
    begun.states(release)(parent)                          # the state that the sites of the release's round started from
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, final

from fedrelease.errors import FetchError, ModelError, NoBase
from fedrelease.models.bases import Base
from fedrelease.server.arrivals import StateOf
from fedrelease.server.release import Release, experiment_of
from fedrelease.server.released_model import same_base
from fedrelease.server.rounds import states_of
from fedrelease.update import State

__all__ = ["Beginnings", "Fresh"]

Fresh: TypeAlias = Callable[[Release, int], State]
"""The state that training would start from with all that a round of the release's experiment has."""


@final
class Beginnings:
    """Where rounds began. What a round added follows from the seed and the base, which is opened only for such a round."""

    def __init__(self, cache: Path | None, *, fresh: Fresh | None = None) -> None:
        """``cache`` has the bases; None where there are none. ``fresh`` makes new states in another way."""
        self._cache = cache
        self._fresh = fresh or self._drawn
        self._base: Base | None = None

    def states(self, release: Release) -> StateOf:
        """Of the release's round: what a site begins with that starts it from some release.

        Raises, when asked for a state that grew:
            NoBase: the base is not here, or not with the bytes that it had.
        """
        if not any(file.path == "experiment.toml" for file in release.manifest.files):
            return lambda begun: begun.state()  # of a store that no plan made
        return states_of(experiment_of(release), release.manifest.round, lambda round: self._fresh(release, round))

    def _drawn(self, release: Release, round: int) -> State:
        from fedrelease.server.local_model import initial_state

        return initial_state(self._opened(release), experiment_of(release), round=round)

    def _opened(self, release: Release) -> Base:
        known = self._base
        if known is not None and dict(known.files) == dict(release.manifest.base.files):
            return known
        why, hint = "no folder of bases was named", ""
        try:
            if self._cache is not None:
                self._base = same_base(release, self._cache)
                return self._base
        except (FetchError, ModelError) as error:
            why, hint = error.what, error.hint
        raise NoBase(
            f"what {release.version} added follows from its base, which is not here: {why}",
            value=release.manifest.base.ref,
            rule="new rows and ranks are those of a model drawn on the base by the seed of the experiment",
            hint=hint,
        )
