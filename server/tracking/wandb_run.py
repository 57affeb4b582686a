"""A run of Weights & Biases, written to a folder and sent nowhere: ``wandb sync`` sends it when you want that.

``WANDB_MODE=online`` in the environment sends it at once, to the account that wandb knows of.
"""

import os
from typing import final
from uuid import uuid4

import wandb

from fedrelease.server.tracking.choice import Choice
from fedrelease.server.tracking.measured import Measured
from fedrelease.server.tracking.runs import Beginning, Ending

__all__ = ["WandbRun"]


@final
class WandbRun:
    """One run of wandb, in the project with the federation's name; offline, going on with it adds a folder with the same id."""

    def __init__(self, choice: Choice, beginning: Beginning) -> None:
        """Begin it with the experiment's keys as its configuration."""
        self.id = beginning.run or uuid4().hex[:8]
        choice.folder.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project=beginning.federation,
            name=beginning.name,
            id=self.id,
            dir=str(choice.folder),
            mode="online" if mode == "online" else "offline",
            resume="allow" if mode == "online" else None,
            config=dict(beginning.parameters),
            settings=wandb.Settings(
                console="off", disable_code=True, disable_git=True, x_disable_stats=True, x_disable_meta=True
            ),
        )

    def release(self, told: Measured) -> None:
        """All numbers at the step of their round; the summary has the digest."""
        self._run.log(dict(told.numbers), step=told.step)
        self._run.summary[f"release/{told.version}"] = told.digest
        self._run.summary[f"verdict/{told.version}"] = told.words["verdict"]

    def end(self, ending: Ending) -> None:
        """The summary has the store, the head and its digest."""
        for name, value in ending.facts.items():
            self._run.summary[name] = value
        self._run.finish(exit_code=0 if ending.complete else 1)
