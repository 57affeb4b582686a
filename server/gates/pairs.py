"""Two releases' outcomes on the same items, item by item; and the slices of them that are judged one by one.

Example::

    pairs = pair(candidate.items, stable.items)              # Pairs, or a sentence that says why they cannot be paired
    [slice.name for slice in slices(pairs)]                  # ['overall', 'class:ham', 'class:spam', 'site:a', ...]
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedrelease.server.gates.items import SERVER, Items

__all__ = ["Pairs", "Slice", "discordant", "pair", "slices"]

Bools: TypeAlias = NDArray[np.bool_]
LEAST_SITES = 10
"""Sites from which a worst tenth of them means something."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """n items that both releases answered.

    Attributes:
        truth, group: label and site of each item, ``[n]`` of text.
        was_right, is_right: whether the other and the candidate answered rightly, ``[n]``.
        was_loss, is_loss: float64 ``[n]``, nats.
        known: labels that the other release can answer with.
        new: labels that only the candidate can.
    """

    truth: NDArray[np.str_]
    group: NDArray[np.str_]
    was_right: Bools
    is_right: Bools
    was_loss: NDArray[np.float64]
    is_loss: NDArray[np.float64]
    known: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """Some of the items. ``kind``: ``overall``, ``class`` or ``site``, which have margins of their own."""

    name: str
    kind: str
    chosen: Bools


def pair(candidate: Items | None, other: Items | None) -> Pairs | str:
    """The items of both, or why there are none: one of them was not measured, or on other items.

    The same set pairs all items. A set that has grown by new labels pairs the rows of labels that the other release knew, if both
    name the same rows for each of these; their order within a label is part of what ``parts`` says.
    """
    if candidate is None or other is None:
        return f"there are no predictions of {'the candidate' if candidate is None else 'it'}"
    places = _places(candidate, other)
    if isinstance(places, str):
        return places
    ours, theirs = places
    truth, group = _names(candidate, candidate.truth)[ours], np.array(candidate.group, dtype=np.str_)[ours]
    same = np.array_equal(truth, _names(other, other.truth)[theirs])
    if not same or not np.array_equal(group, np.array(other.group, dtype=np.str_)[theirs]):
        return "the evaluation set has the same digest, and other labels or sites"
    return Pairs(
        truth=truth,
        group=group,
        was_right=other.right[theirs],
        is_right=candidate.right[ours],
        was_loss=other.loss[theirs].astype(np.float64),
        is_loss=candidate.loss[ours].astype(np.float64),
        known=other.known,
        new=tuple(label for label in candidate.known if label not in other.known),
    )


def _names(items: Items, codes: NDArray[np.int64]) -> NDArray[np.str_]:
    return np.array(items.labels, dtype=np.str_)[codes]


def _places(candidate: Items, other: Items) -> tuple[NDArray[np.int64], NDArray[np.int64]] | str:
    if candidate.evaluation == other.evaluation:
        if len(candidate) != len(other) or not len(candidate):
            return f"{len(candidate)} items of the candidate, {len(other)} of it: the set is empty or was not finished"
        every = np.arange(len(candidate))
        return every, every
    ours, theirs = candidate.parts, other.parts
    if not theirs or any(ours.get(label) != theirs.get(label) or label not in theirs for label in other.known):
        return f"another evaluation set: {candidate.evaluation[:12]}, not {other.evaluation[:12]}"
    found = [_in_order(items, other.known) for items in (candidate, other)]
    if len(found[0]) != len(found[1]) or not len(found[0]):
        return f"{len(found[0])} items of the labels that it knew, {len(found[1])} of it: the set was not finished"
    return found[0], found[1]


def _in_order(items: Items, labels: Sequence[str]) -> NDArray[np.int64]:
    """Places of the items of these labels, label by label, in the set's own order within each."""
    known = [items.labels.index(label) for label in labels if label in items.labels]
    return np.concatenate([np.flatnonzero(items.truth == code) for code in known] or [np.arange(0)])


def discordant(pairs: Pairs, chosen: Bools) -> tuple[int, int, int]:
    """b (were right, are wrong), c (the reverse) and n among the chosen items."""
    was, now = pairs.was_right[chosen], pairs.is_right[chosen]
    return int((was & ~now).sum()), int((~was & now).sum()), int(chosen.sum())


def slices(pairs: Pairs) -> Iterator[Slice]:
    """All items that either knows, those that both know if labels were added, each class, each site, the worst ones.

    Items of a label that neither knows would only make every difference look smaller, so they are in no slice.
    """
    old, either = np.isin(pairs.truth, pairs.known), np.isin(pairs.truth, pairs.known + pairs.new)
    if not pairs.new or not np.array_equal(old, either):
        yield Slice(name="overall", kind="overall", chosen=either)
    if pairs.new:
        yield Slice(name="old-labels", kind="overall", chosen=old)
    for label in pairs.known:
        yield Slice(name=f"class:{label}", kind="class", chosen=pairs.truth == label)
    yield from _sites(pairs, old)


def _sites(pairs: Pairs, old: Bools) -> Iterator[Slice]:
    """Of labels that both know. Worst is where both releases together do worst: choosing by one would favour the other."""
    names = [str(name) for name in np.unique(pairs.group[old]) if name != SERVER]
    for name in names:
        yield Slice(name=f"site:{name}", kind="site", chosen=old & (pairs.group == name))
    if len(names) < 2:
        return
    both = pairs.was_right.astype(np.float64) + pairs.is_right
    worst = sorted(names, key=lambda name: (float(both[old & (pairs.group == name)].mean()), name))
    yield Slice(name="worst-site", kind="site", chosen=old & (pairs.group == worst[0]))
    if len(names) >= LEAST_SITES:
        tenth = worst[: len(names) // 10]
        yield Slice(name="worst-decile", kind="site", chosen=old & np.isin(pairs.group, tenth))
