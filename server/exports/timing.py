"""Times of two models on the same rows, taken in turns, so that a machine that slows down slows down both.

Example::

    ours, theirs = in_turns(int8_answer, float_answer, rows)           # seconds, float64 [TIMES] each
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from fedrelease.data.row_files import Rows

__all__ = ["TIMES", "in_turns"]

TIMES = 60
WARM_UP = 3


def in_turns(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], rows: Rows) -> tuple[Tensor, Tensor]:
    """Seconds of single answers, one row each, over rows of all lengths; who comes first changes every time."""
    order = torch.argsort(rows.lengths, stable=True)
    places = order[torch.linspace(0, len(rows) - 1, TIMES).round().long()]
    seconds = torch.zeros(TIMES, 2, dtype=torch.float64)
    for turn in range(-WARM_UP, TIMES):
        given = rows.batch(places[max(turn, 0)].reshape(1)).inputs[:2]
        for column in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            (ours, theirs)[column](*given)
            seconds[max(turn, 0), column] = time.perf_counter() - start
    return seconds[:, 0], seconds[:, 1]
