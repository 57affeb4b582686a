"""The small interface that all trackers have here: begin a run or go on with one, tell a release, end.

Example::

    run = open_run(choice, Beginning(federation="reviews", name="releases", run=None, parameters={"training.lr": 0.001}))
    run.release(measured(manifest, entry))
    run.end(Ending(complete=True, facts={"head": "0.2.3"}))
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from fedrelease.server.tracking.choice import TRACKERS, Choice
from fedrelease.server.tracking.measured import Measured

__all__ = ["Beginning", "Ending", "Parameter", "TrackerRun", "open_run"]

Parameter: TypeAlias = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a run begins with.

    Attributes:
        federation: its name, under which a tracker groups runs. name: of this run, for people.
        run: the tracker's own name of the run to go on with; ``None`` begins a new one.
        parameters: the resolved experiment, flat.
    """

    federation: str
    name: str
    run: str | None
    parameters: Mapping[str, Parameter]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What a run ends with: store, head and digest; ``complete`` is false where it was stopped or failed."""

    complete: bool
    facts: Mapping[str, str]


class TrackerRun(Protocol):
    """A run in one tracker. Whatever goes wrong there may be raised as any error."""

    @property
    def id(self) -> str:
        """The tracker's own name of the run, by which it can be gone on with."""

    def release(self, told: Measured) -> None:
        """Write down a release, so that it is there when this returns."""

    def end(self, ending: Ending) -> None:
        """Write down how it ended, and close everything."""


def open_run(choice: Choice, beginning: Beginning) -> TrackerRun:
    """Begin, or go on with, a run of the chosen tracker; its package is imported now."""
    for name, value in TRACKERS[choice.kind].environment.items():
        os.environ.setdefault(name, value)
    return _OPENERS[choice.kind](choice, beginning)


def _mlflow(choice: Choice, beginning: Beginning) -> TrackerRun:
    from fedrelease.server.tracking.mlflow_run import MlflowRun

    return MlflowRun(choice, beginning)


def _tensorboard(choice: Choice, beginning: Beginning) -> TrackerRun:
    from fedrelease.server.tracking.tensorboard_run import TensorBoardRun

    return TensorBoardRun(choice, beginning)


def _wandb(choice: Choice, beginning: Beginning) -> TrackerRun:
    from fedrelease.server.tracking.wandb_run import WandbRun

    return WandbRun(choice, beginning)


_OPENERS: Mapping[str, Callable[[Choice, Beginning], TrackerRun]] = {
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
