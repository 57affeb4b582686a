"""Flags that several commands have, said once.

Example::

    def simulate(settings: Settings = None, workers: Workers = None, quiet: Quiet = False) -> None: ...
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, TypeAlias

import typer

__all__ = ["AsJson", "Quiet", "Settings", "Track", "Workers", "at_least_one", "stop_wanted"]


def at_least_one(number: int | None) -> int | None:
    """Refuse a number below 1; what is left out is left out.

    Raises:
        BadParameter: it is.
    """
    if number is not None and number < 1:
        raise typer.BadParameter(f"{number} is not at least 1")
    return number


Settings: TypeAlias = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key of the file; repeatable.")
]
Workers: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        callback=at_least_one,
        help="Processes that train sites [default: what fits this machine].",
    ),
]
Track: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="TRACKER[:PLACE]",
        help="Tell tensorboard, mlflow or wandb about every release too; PLACE is a folder, or MLflow's address; repeatable.",
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="No plan and no progress.")]


@contextmanager
def stop_wanted() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came while the block runs: what it does can then be ended in order."""
    wanted = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        del number, frame
        wanted.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wanted.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
