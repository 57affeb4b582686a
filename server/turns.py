"""Timing answers in turns, so that a machine that slows down slows down all of them.

Example::

    ours, theirs = in_turns([lambda turn: model(rows[turn]), lambda turn: other(rows[turn])], turns=40)    # seconds
"""

import time
from collections.abc import Callable, Sequence

__all__ = ["in_turns"]

WARM_UP = 3


def in_turns(answers: Sequence[Callable[[int], object]], *, turns: int) -> list[list[float]]:
    """Seconds of ``turns`` single answers of each, after a few that do not count.

    In each turn all of them answer once and are told its number, another one first each time; those that do not count have 0.
    """
    taken: list[list[float]] = [[] for _ in answers]
    for turn in range(-WARM_UP, turns):
        for place in range(len(answers)):
            who = (place + turn) % len(answers)
            begun = time.perf_counter()
            answers[who](max(turn, 0))
            taken[who] += [time.perf_counter() - begun] if turn >= 0 else []
    return taken
