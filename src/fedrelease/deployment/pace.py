"""How often Flower's loops look for news: it has no settings for that, so names in its modules are replaced.

Example::

    set_pace(start_client_internal, idle_s=0.5)            # instead of three seconds

What a module of another version of Flower does not have is left alone: the loop then goes at Flower's own pace.
"""

import time
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import cast

from fedrelease.deployment.pulls import PATIENCE_S, Pull, while_pieces_come

__all__ = ["set_pace"]

SOON_S = 0.05
"""Between looks at what is on this machine, or on its way: Flower waits for half a second, and for one."""
AT_MOST_S = 2.0
IDLE_OF_FLOWER_S = 3.0
PULLS = ("pull_objects", "pull_and_inflate_object_from_tree")
FETCH = "pull_object_fn"


def set_pace(module: ModuleType, *, idle_s: float, patience_s: float = PATIENCE_S) -> None:
    """Let a module of Flower look for news every ``idle_s`` when nothing goes on, and soon when something does.

    A message is told of before all of its pieces are there: who looks often meets that often, and would wait for a second. It
    waits for as long as pieces come: :mod:`fedrelease.deployment.pulls`.
    """
    if getattr(module, "time", None) is time:
        setattr(module, "time", _hurried(idle_s))  # noqa: B010  # no module exports the libraries that it uses
    for name in PULLS:
        pull: Callable[..., object] | None = getattr(module, name, None)
        if pull is not None:
            setattr(module, name, partial(_pulled, pull, partial(while_pieces_come, patience_s=patience_s)))


def _pulled(
    plain: Callable[..., object], patient: Callable[[Pull], Pull], *arguments: object, **named: object
) -> object:
    """What a function of Flower's pulls; some callers name its arguments, the second of which fetches one piece."""
    given = list(arguments)
    if FETCH in named:
        named[FETCH] = patient(cast(Pull, named[FETCH]))
    else:
        given[1] = patient(cast(Pull, given[1]))
    return plain(*given, initial_backoff=SOON_S, backoff_cap=AT_MOST_S, max_tries_per_object=None, **named)


def _hurried(idle_s: float) -> SimpleNamespace:
    """The module ``time`` with shorter sleeps."""

    def sleep(seconds: float) -> None:
        time.sleep(idle_s if seconds >= IDLE_OF_FLOWER_S else min(seconds, SOON_S))

    same = {name: getattr(time, name) for name in dir(time) if not name.startswith("_")}
    return SimpleNamespace(**{**same, "sleep": sleep})
