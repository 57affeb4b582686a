"""Which trackers a run tells about its releases, as a flag names them.

Example::

    chosen = chosen_trackers(["tensorboard", "mlflow:http://127.0.0.1:5000"])
    chosen[0].kind, chosen[0].place                          # ('tensorboard', 'runs')
"""

import importlib.util
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from fedrelease.errors import ExperimentError

__all__ = ["TRACKERS", "Choice", "Tracking", "chosen_trackers"]


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A tracker.

    Attributes:
        package: that is imported. place: where it writes unless told. addresses: whether it may be a server.
        environment: what its package reads from the environment when it is imported; what the user has set there stays.
    """

    title: str
    package: str
    place: str
    addresses: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


TRACKERS: Mapping[str, _Kind] = {
    "mlflow": _Kind(
        title="MLflow",
        package="mlflow",
        place="mlruns",
        addresses=True,
        environment={
            "MLFLOW_ALLOW_FILE_STORE": "true",  # MLflow prefers databases by now; plain files need no other package
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # a federation does not wait minutes for a server that is away
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        },
    ),
    "tensorboard": _Kind(title="TensorBoard", package="tensorboard", place="runs"),
    "wandb": _Kind(
        title="Weights & Biases",
        package="wandb",
        place=".",  # where it makes a folder called wandb
        environment={"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"},
    ),
}
"""Each has an optional extra of its name."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://")
EXAMPLES = "--track tensorboard, --track mlflow:DIR or --track mlflow:http://127.0.0.1:5000"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One tracker, and its folder or the address of its server."""

    kind: str
    place: str

    @property
    def is_address(self) -> bool:
        """Whether it is a server's, or a database's."""
        return _ADDRESS.match(self.place) is not None

    def where(self, store: Path) -> str:
        """The address, or the folder as seen from the store, so that both may move together and no home is told."""
        return self.place if self.is_address else Path(os.path.relpath(self.folder, store)).as_posix()

    @property
    def folder(self) -> Path:
        """Where it writes, whatever the current folder will be."""
        return Path(self.place).expanduser().absolute()

    def anywhere(self) -> str:
        """The same choice as a flag, for a process with another current folder."""
        return f"{self.kind}:{self.place if self.is_address else self.folder}"


def _ignore(line: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """What a run is told to track.

    Attributes:
        choices: the trackers; none for none.
        name: of the run there; ``None`` for that of the store's folder.
        warn: told in one line what a tracker cannot do. It never hears of rows, keys or tokens.
    """

    choices: tuple[Choice, ...] = ()
    name: str | None = None
    warn: Callable[[str], None] = _ignore


def chosen_trackers(flags: Sequence[str]) -> tuple[Choice, ...]:
    """The trackers of ``KIND`` or ``KIND:PLACE``, once each, all of them installed.

    Raises:
        ExperimentError: there is no such tracker, its package is not installed, or its place is none.
    """
    chosen = dict.fromkeys(_choice(flag) for flag in flags)
    for choice in chosen:
        _check_installed(choice)
    return tuple(chosen)


def _choice(flag: str) -> Choice:
    kind, colon, place = flag.partition(":")
    if kind not in TRACKERS:
        near = get_close_matches(kind, TRACKERS, n=1)
        rule = f"a tracker is one of {', '.join(TRACKERS)}, with :PLACE if you like"
        raise ExperimentError("unknown tracker", value=kind, rule=rule, hint=f"{near[0]}?" if near else EXAMPLES)
    if colon and not place.strip():
        raise ExperimentError("the tracker's place is empty", value=flag, rule="KIND:PLACE", hint=f"--track {kind}")
    choice = Choice(kind=kind, place=place or TRACKERS[kind].place)
    if choice.is_address:
        _check_address(choice)
    return choice


def _check_address(choice: Choice) -> None:
    """Refuse an address where a folder is meant, and one with a secret in it, which would stand beside every release."""
    scheme = choice.place.partition(":")[0]
    if not TRACKERS[choice.kind].addresses:
        rule = f"{choice.kind} writes into a folder"
        raise ExperimentError(
            "an address is given where a folder is meant", value=choice.place, rule=rule, hint=EXAMPLES
        )
    if "@" in choice.place or "?" in choice.place:
        raise ExperimentError(
            "the tracker's address may hold a secret, and would be kept beside every release",
            value=f"{scheme}://...",
            rule="no user, password or query in the address",
            hint="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        )


def _check_installed(choice: Choice) -> None:
    known = TRACKERS[choice.kind]
    if importlib.util.find_spec(known.package) is None:
        raise ExperimentError(
            f"{known.title} is not installed",
            value=f"--track {choice.kind}",
            rule=f"this tracker needs the optional extra {choice.kind!r}",
            hint=f'pip install -c constraints.txt "fedrelease[{choice.kind}]"',
        )
