"""Find the release that broke something: half of the line at a time.

Example::

    found = bisect(store, good="0.1.1", bad="stable", check=check, watch=print)
    found.suspects                                           # ('0.2.2',): the first bad one
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedrelease.errors import StoreError
from fedrelease.server.release import Release, by_digest
from fedrelease.server.store import Store

__all__ = ["VERDICTS", "Found", "Tried", "bisect", "line_between"]

VERDICTS = ("good", "bad", "skip")


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One release that was looked at. ``left``: how many more looks it takes at most, where none is skipped."""

    version: str
    verdict: str
    left: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """The first bad release; several, oldest first, where those that could tell were skipped.

    ``before``: the last good one. ``tried``: in the order in which they were.
    """

    suspects: tuple[str, ...]
    before: str
    tried: tuple[Tried, ...]


def bisect(
    store: Store, *, good: str, bad: str, check: Callable[[Release], str], watch: Callable[[Tried], None]
) -> Found:
    """Ask ``check`` about the release in the middle, until the first bad one is known. Held releases of the line are asked, too.

    Args:
        good, bad: not asked again.
        check: says one of :data:`VERDICTS`.
        watch: told of every answer.

    Raises:
        ReleaseNotFound: nothing is called so.
        StoreError: ``bad`` does not come from ``good``.
    """
    line = line_between(store, good, bad)
    low, high, skipped, tried = 0, len(line) - 1, set[int](), list[Tried]()
    while (middle := _middle(low, high, skipped)) is not None:
        verdict = check(line[middle])
        if verdict == "skip":
            skipped.add(middle)
        low, high = (middle if verdict == "good" else low), (middle if verdict == "bad" else high)
        tried.append(Tried(version=line[middle].version, verdict=verdict, left=_looks_left(low, high, skipped)))
        watch(tried[-1])
    suspects = tuple(release.version for release in line[low + 1 : high + 1])
    return Found(suspects=suspects, before=line[low].version, tried=tuple(tried))


def line_between(store: Store, good: str, bad: str) -> Sequence[Release]:
    """The releases from ``good`` to ``bad``, by their parents.

    Raises:
        StoreError: there is no such line.
    """
    first, last = store.find(good), store.find(bad)
    line = [last]
    while line[-1].digest != first.digest and line[-1].manifest.parents:
        line.append(by_digest(store.folder, line[-1].manifest.parents[0]))
    if line[-1].digest != first.digest or len(line) < 2:
        raise StoreError(
            f"{last.version} does not come from {first.version}",
            value=f"good {first.version}, bad {last.version}",
            rule="the good release is an earlier one on the line of the bad one",
            hint="fedrelease log --graph shows which release came from which",
        )
    return line[::-1]


def _middle(low: int, high: int, skipped: set[int]) -> int | None:
    """The place to look at next: nearest to the middle, the older of two; None where nothing is left to ask."""
    open_places = [place for place in range(low + 1, high) if place not in skipped]
    return min(open_places, key=lambda place: (abs(2 * place - low - high), place), default=None)


def _looks_left(low: int, high: int, skipped: set[int]) -> int:
    return math.ceil(math.log2(1 + sum(place not in skipped for place in range(low + 1, high))))
