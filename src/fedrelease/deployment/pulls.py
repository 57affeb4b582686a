"""Waiting for the pieces of a message: for as long as pieces come, and not for as long as Flower would.

Example::

    pull = while_pieces_come(pull, patience_s=PATIENCE_S)        # in the place of what fetches one piece by its id

A message is told of before its pieces are there. Who told of it may die before it has sent them, and Flower goes on asking for
them 500 times; meanwhile a server hears no other site, and a site no other question. [Flower 1.41: ``inflatable_utils``]
"""

import time
from collections.abc import Callable
from typing import TypeAlias

from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
from flwr.supercore.run import RunNotRunningException

__all__ = ["PATIENCE_S", "Pull", "while_pieces_come"]

PATIENCE_S = 90.0
"""Between two pieces. They have 5 MB at most and travel two at a time: on a way with 1 Mbit a second that is enough."""
Pull: TypeAlias = Callable[[str], bytes]
"""Fetches one piece by its id; raises ``ObjectUnavailableError`` while it is not there."""


def while_pieces_come(pull: Pull, *, patience_s: float, clock: Callable[[], float] = time.monotonic) -> Pull:
    """The same, until nothing has come for so long, or the run is over: then it raises ``ObjectPullError``.

    A run that is over is no ``Exception`` of Flower's, so that its SuperNode would not end the task that it has begun for the
    message: the site's app would wait for the pieces, and the SuperNode for the app.
    """
    came = clock()

    def pulled(piece: str) -> bytes:
        nonlocal came
        try:
            data = pull(piece)
        except RunNotRunningException as error:
            raise ObjectPullError(piece, "its run is over") from error
        except ObjectUnavailableError as error:
            if clock() - came > patience_s:
                raise ObjectPullError(piece, f"no piece came for {patience_s:g} s") from error
            raise
        came = clock()
        return data

    return pulled
