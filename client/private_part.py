"""Tensors that a site trains and never sends: its own part of the model, such as LoRA's B factors.

Example::

    part = open_private_part(site.home, request, state)      # None where the strategy asks for none
    load_state(model, {**state, **part.own})                 # the site's own in place of the release's
    sent = {**trained, **part.end(state, trained)}           # kept on disk; what goes back is as it came

Guarantees: of the private tensors nothing leaves the site: in their places the answer has what the server sent. They are read
from the site's folder and written there, durably, before there is an answer. With privacy they are clipped and noised together
with all else that is trained, under one charge: what they do to the tensors that are sent is paid for.

How they lie on disk, and what a round that is asked again starts from: :mod:`fedrelease.client.left_behind`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fedrelease.client.directives import parse_directives
from fedrelease.client.left_behind import Shelf, shelf_at, shelf_of
from fedrelease.errors import DataError, ModelError
from fedrelease.experiment import Experiment
from fedrelease.manifest import version_key
from fedrelease.messages import Request
from fedrelease.private_part import private_names
from fedrelease.strategies import STRATEGIES, make_strategy
from fedrelease.update import State

__all__ = ["PrivatePart", "open_private_part", "own_tensors", "part_of_release"]

WITHOUT = "the release's, as a site that is new"
"""What a site begins with that has no private part yet."""


@dataclass(frozen=True, kw_only=True)
class PrivatePart:
    """A site's own tensors at the start of a round, by canonical name, and where they go at its end."""

    own: State
    shelf: Shelf

    def end(self, came: State, trained: State) -> dict[str, Tensor]:
        """Keep what was trained durably, and return what is sent in its place: what came."""
        self.shelf.keep({name: trained[name] for name in self.own})
        return {name: came[name].clone() for name in self.own}


def open_private_part(home: Path, request: Request, state: State) -> PrivatePart | None:
    """The site's part before this round, the state's in its first; ``None`` where the strategy asks for none.

    Raises:
        ModelError: the state has no such tensors.
        DataError: what lies in the site's folder does not fit the state, or is gone.
        UpdateRefused: it cannot be read.
    """
    asked = _asked(home, request, state)
    if asked is None:
        return None
    shelf, ours = asked
    return PrivatePart(own=_read(shelf, shelf.before(), ours) or ours, shelf=shelf)


def own_tensors(home: Path, request: Request, state: State) -> State | None:
    """What the site's users have in place of the state's tensors after this round, whether it took part or not.

    Empty for a site that never trained, and ``None`` where the strategy asks for no private part.

    Raises:
        ModelError, DataError, UpdateRefused: as :func:`open_private_part`.
    """
    asked = _asked(home, request, state)
    if asked is None:
        return None
    shelf, ours = asked
    return _read(shelf, shelf.newest(), ours)


def part_of_release(home: Path, experiment: Experiment, state: State, *, version: str) -> State:
    """A site's own tensors in the places of a release's, for who asks that release at the site.

    Args:
        home: the site's folder. experiment: that the release came from. state: the release's. version: its own.

    Raises:
        DataError: no site kept a part of that release there, or what lies there does not fit the state.
        UpdateRefused: it cannot be read.
    """
    phase = version_key(version)[1]
    directives = make_strategy(experiment.phases[phase - 1].strategy).directives(1) if phase else {}
    part = parse_directives(directives).private
    names = private_names(state, part)
    shelf = shelf_at(home / "private", part or "", experiment, version=version)
    path = shelf.newest() if names else None
    if path is None:
        keeping = ", ".join(f"{name} ({part})" for name, part in _keeping().items())
        raise DataError(
            f"no site keeps a part of {version} there",
            value=str(home),
            rule=f"a site that trained in a phase of {keeping} has its own part in private/, in its own folder",
            hint="name the folder of such a site, in a simulation STORE.sites/SITE, or leave --own out",
        )
    return shelf.read(path, like={name: state[name] for name in names}, what="private part", without=WITHOUT)


def _keeping() -> Mapping[str, str]:
    """Strategies that let sites keep a part, and which one."""
    found = {name: kind().directives(1).get("private") for name, kind in STRATEGIES.items()}
    return {name: str(part) for name, part in found.items() if part}


def _asked(home: Path, request: Request, state: State) -> tuple[Shelf, State] | None:
    """Where the part lies, and the state's own tensors in its places."""
    part = parse_directives(request.directives).private
    if part is None:
        return None
    names = private_names(state, part)
    _check_there(names, part)
    return shelf_of(home / "private", part, request), {name: state[name] for name in names}


def _check_there(names: Iterable[str], part: str) -> None:
    if not names:
        raise ModelError(
            "the strategy keeps at the site what the model does not have",
            value=part,
            rule="with private = lora_B the model's adapter is LoRA, with private = head its task trains a head, and with"
            " private = second-adapter it has model.adapter.own_rank",
            hint="choose another strategy, such as fedavg",
        )


def _read(shelf: Shelf, path: Path | None, ours: State) -> State:
    if path is not None:
        return shelf.read(path, like=ours, what="private part", without=WITHOUT)
    if shelf.is_emptied:
        raise DataError(
            "this site's private part is gone",
            value=str(shelf.folder),
            rule="the site has trained one in this experiment, and nobody else has a copy",
            hint=f"put the folder's files back, or remove the folder: then the site begins with {WITHOUT}",
        )
    return {}
