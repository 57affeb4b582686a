"""Times of two models on the same rows, taken in turns, so that a machine that slows down slows down both.

Example::

    ours, theirs = timed(int8_answer, float_answer, rows)           # seconds, float64 [TIMES] each
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedrelease.data.row_files import Rows
from fedrelease.server.exports.compared import given_to
from fedrelease.server.turns import in_turns

__all__ = ["TIMES", "timed"]

TIMES = 60


def timed(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], rows: Rows, inputs: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Seconds of single answers, float64 ``[TIMES]`` each, one row each, over rows of all lengths."""
    order = torch.argsort(rows.lengths, stable=True)
    places = order[torch.linspace(0, len(rows) - 1, TIMES).round().long()]
    given = [tuple(given_to(rows, place.reshape(1), inputs).values()) for place in places]
    seconds = in_turns([lambda turn: ours(*given[turn]), lambda turn: theirs(*given[turn])], turns=TIMES)
    first, second = (torch.tensor(each, dtype=torch.float64) for each in seconds)
    return first, second
