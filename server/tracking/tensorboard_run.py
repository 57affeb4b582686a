"""A run as TensorBoard's event files, in a folder of its own below the chosen one.

A scalar is a 32-bit float there: TensorBoard's own reader passes over longer ones. The text of each release has all digits.
"""

from collections.abc import Mapping
from typing import final
from uuid import uuid4

from torch.utils.tensorboard import FileWriter
from torch.utils.tensorboard.summary import hparams, scalar, text

from fedrelease.server.tracking.choice import Choice
from fedrelease.server.tracking.measured import Measured
from fedrelease.server.tracking.runs import Beginning, Ending, Parameter

__all__ = ["TensorBoardRun"]

TARGETS = ("mean/accuracy", "worst/accuracy", "privacy/epsilon")
"""What TensorBoard's table of hyperparameters shows beside them."""


@final
class TensorBoardRun:
    """One folder of event files; going on with a run adds a file."""

    def __init__(self, choice: Choice, beginning: Beginning) -> None:
        """Open the folder; a new run begins with its parameters."""
        earlier = beginning.run if beginning.run and (choice.folder / beginning.run).is_dir() else None
        self.id = earlier or f"{beginning.name}-{uuid4().hex[:8]}"
        self._writer = FileWriter(str(choice.folder / self.id))
        if earlier is None:
            self._parameters(beginning.parameters)

    def _parameters(self, parameters: Mapping[str, Parameter]) -> None:
        table = hparams(dict(parameters), dict.fromkeys(TARGETS, 0.0))  # type: ignore[no-untyped-call]
        for summary in table:
            self._writer.add_summary(summary)
        self._text("experiment", {name: str(value) for name, value in parameters.items()}, step=0)

    def release(self, told: Measured) -> None:
        """Each number is a scalar at the step of its round; words are a text."""
        for name, value in told.numbers.items():
            self._writer.add_summary(scalar(name, value), told.step)  # type: ignore[no-untyped-call]
        exact = {name: repr(value) for name, value in told.numbers.items()}
        self._text("release", {**told.words, **exact}, step=told.step)
        self._writer.flush()

    def end(self, ending: Ending) -> None:
        """What it ended with is a text too."""
        self._text("end", ending.facts, step=0)
        self._writer.close()

    def _text(self, tag: str, words: Mapping[str, str], *, step: int) -> None:
        rows = "".join(f"| {name} | `{value}` |\n" for name, value in words.items())
        summary = text(tag, f"| | |\n|---|---|\n{rows}")  # type: ignore[no-untyped-call]
        self._writer.add_summary(summary, step)
