"""What a thread is at, some two hundred times a second, with the standard library alone.

Example::

    samples: list[Sample] = []
    sampled(partial(train, model, job), samples)        # what train returns
    fold(samples)                                       # microseconds by stack

A second thread reads the first one's Python frames. torch hands Python's lock back while an operator runs, so what is inside one
operator is seen at the line that called it. Code in C that keeps the lock is seen when it is done: each sample weighs the time
since the one before, so that nothing is lost. No other process is looked into, so it needs no rights.
"""

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import TypeAlias, TypeVar

__all__ = ["Sample", "Stack", "fold", "folded_text", "sampled", "stacks_from"]

EVERY_S = 0.005
SWITCH_S = 0.0001
"""How soon Python's lock is handed over when it is asked for: 5 ms, the default, would see all short functions late."""

Stack: TypeAlias = tuple[str, ...]
"""Functions by module and name, the outermost first."""
Sample: TypeAlias = tuple[Stack, int]
"""A stack, and the microseconds since the sample before it."""
Result = TypeVar("Result")


def sampled(work: Callable[[], Result], samples: list[Sample], *, every_s: float = EVERY_S) -> Result:
    """What ``work()`` returns; what was seen below it meanwhile is appended to ``samples``."""
    done, switch = threading.Event(), sys.getswitchinterval()
    watcher = threading.Thread(target=_watch, args=(threading.get_ident(), done, samples, every_s))
    sys.setswitchinterval(SWITCH_S)
    watcher.start()
    try:
        return _below(work)
    finally:
        done.set()
        watcher.join()
        sys.setswitchinterval(switch)


def _below(work: Callable[[], Result]) -> Result:
    """Marks the stack: what is not below it is no work."""
    return work()


def _watch(thread: int, done: threading.Event, samples: list[Sample], every_s: float) -> None:
    before = time.perf_counter_ns()
    while not done.wait(every_s):
        stack = _stack(sys._current_frames()[thread])
        now = time.perf_counter_ns()
        if stack:
            samples.append((stack, (now - before) // 1000))
        before = now


def _stack(frame: FrameType | None) -> Stack:
    """The functions below the mark; none when the thread is elsewhere, about to start or to end."""
    names: list[str] = []
    while frame is not None and frame.f_code is not _below.__code__:
        names.append(f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}")
        frame = frame.f_back
    return () if frame is None else tuple(reversed(names))


def fold(samples: Sequence[Sample]) -> dict[Stack, int]:
    """Microseconds by stack, in order of name."""
    found: dict[Stack, int] = {}
    for stack, microseconds in samples:
        found[stack] = found.get(stack, 0) + microseconds
    return dict(sorted(found.items()))


def folded_text(stacks: Mapping[Stack, int]) -> str:
    """A line for each stack, as speedscope and flamegraph.pl read it: functions between semicolons, then microseconds."""
    return "".join(f"{';'.join(stack)} {microseconds}\n" for stack, microseconds in stacks.items())


def stacks_from(text: str) -> dict[Stack, int]:
    """The stacks that :func:`folded_text` wrote."""
    lines = (line.rpartition(" ") for line in text.splitlines())
    return {tuple(names.split(";")): int(microseconds) for names, _, microseconds in lines}
