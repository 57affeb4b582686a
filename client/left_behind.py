"""What a site's rounds leave behind for its later ones: tensors on its own disk, by the version that left them.

Example::

    shelf = shelf_of(site.home / "variates", "scaffold", request)
    shelf.before()                          # what the last round that asked this site left, or None
    shelf.keep(after)                       # durably, as what this version leaves

A round that is asked again, after a crash of either side, starts from what the version before it left: each version's lies under
its own name, and a version reads the newest of those before it. The last two are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fedrelease.errors import DataError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import experiment_digest
from fedrelease.growth import grown, grown_head
from fedrelease.manifest import version_key
from fedrelease.messages import Request
from fedrelease.update import State, read_state, write_state

__all__ = ["Shelf", "shelf_at", "shelf_of"]


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """The folder for one experiment, as one of its versions sees it."""

    folder: Path
    experiment: Experiment
    version: str

    @property
    def path(self) -> Path:
        """Where this version's goes."""
        return self.folder / f"{self.version}.safetensors"

    @property
    def is_emptied(self) -> bool:
        """The folder is there and nothing is in it: something was left once, and is gone."""
        return self.folder.is_dir() and not self._versions()

    def before(self) -> Path | None:
        """What the last round that asked this site left, unless the strategy has begun anew since."""
        return self._newest(itself=False)

    def newest(self) -> Path | None:
        """What this round left, or else as :meth:`before`."""
        return self._newest(itself=True)

    def _newest(self, *, itself: bool) -> Path | None:
        own = version_key(self.version)
        first = _first_phase(self.experiment, own[1])
        known = self._versions()
        asked = [key for key in known if key[1] >= first and (key < own or (itself and key == own))]
        return known[max(asked)] if asked else None

    def read(self, path: Path, *, like: State, what: str, without: str) -> dict[str, Tensor]:
        """The tensors in ``path``, a file of this shelf.

        Args:
            path: as :meth:`before` or :meth:`newest` say.
            like: tensors of the names and shapes that they must have. Where it has more for labels or an adapter that grew
                since, what was left gets that.
            what: name of such tensors in a refusal. without: what the site begins with where there is no file.

        Raises:
            DataError: they do not fit.
            UpdateRefused: the file cannot be read.
        """
        found = (grown if self._may_grow(path) else grown_head)(read_state(path), like=like)
        if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in like.items()}:
            hint = f"put back the file that was there; without it the site begins with {without}"
            raise DataError(f"this site's {what} does not fit the state", value=str(path), hint=hint)
        return found

    def _may_grow(self, path: Path) -> bool:
        """Whether the adapter has grown since: else factors that are too few were lost."""
        adapters = self.experiment.phase_adapters
        phases = (version_key(version)[1] for version in (path.stem, self.version))
        then, now = (adapters[min(max(phase, 1), len(adapters)) - 1].form for phase in phases)
        return then != now

    def keep(self, tensors: State) -> None:
        """Write down durably what this version leaves, and forget what no version will read again.

        This version's and the one before it stay; a later one is of a history that the server has lost.
        """
        write_state(self.path, tensors)
        known, own = self._versions(), version_key(self.version)
        earlier = sorted(key for key in known if key < own)
        for key in known.keys() - {own, *earlier[-1:]}:
            known[key].unlink(missing_ok=True)

    def _versions(self) -> Mapping[tuple[int, int, int], Path]:
        return {version_key(path.stem): path for path in self.folder.glob("[0-9]*.safetensors")}


def shelf_of(room: Path, kind: str, request: Request) -> Shelf:
    """The shelf in a site's ``room`` for what is of this kind, in the request's experiment and version."""
    return shelf_at(room, kind, request.experiment, version=request.version)


def shelf_at(room: Path, kind: str, experiment: Experiment, *, version: str) -> Shelf:
    """The same of an experiment that nobody asks about just now."""
    folder = room / f"{kind}-{experiment_digest(experiment)[:16]}"
    return Shelf(folder=folder, experiment=experiment, version=version)


def _first_phase(experiment: Experiment, phase: int) -> int:
    """The first of the phases, from 1, that follow each other up to this one with one strategy, whose memory goes on."""
    names = [each.strategy.name for each in experiment.phases]
    while 1 < phase <= len(names) and names[phase - 2] == names[phase - 1]:
        phase -= 1
    return phase
