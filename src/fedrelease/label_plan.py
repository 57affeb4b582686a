"""Which labels each phase has: they are only added, at the end, so that a place among them means the same for good.

Example::

    labels_by_phase(("a", "b", "c"), [("a", "b"), None, ("a", "b", "c")])      # (('a', 'b'), ('a', 'b'), ('a', 'b', 'c'))
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TypeAlias

from fedrelease.bounds import require

__all__ = ["Labels", "check_labels", "labels_by_phase", "majors"]

Labels: TypeAlias = tuple[str, ...]


def labels_by_phase(known: Labels, named: Sequence[Labels | None]) -> tuple[Labels, ...]:
    """The labels of each phase: those that it names, else those of the phase before; the first phase has ``known``."""
    found: list[Labels] = []
    for labels in named:
        found.append(labels if labels is not None else found[-1] if found else known)
    return tuple(found)


def majors(by_phase: Sequence[object]) -> tuple[int, ...]:
    """MAJOR of each phase's versions: how often what its releases are to their users became another until then."""
    return tuple(accumulate((before != labels for before, labels in pairwise(by_phase)), initial=0))


def check_labels(known: Labels, named: Sequence[Labels | None]) -> None:
    """Refuse phases that would take a label away, move one, or leave one of the model's without a phase.

    Raises:
        ExperimentError: the text names the phase, from 0 as in ``--set phase.1.labels``.
    """
    by_phase = labels_by_phase(known, named)
    for place, labels in enumerate(by_phase):
        key, value = f"phase.{place}.labels", list(labels)
        require(len(labels) >= 2, key, value, "has at least two labels")
        rule = f"is a beginning of model.labels, {', '.join(known)}, in that order"
        hint = "model.labels is all that there will ever be; a phase names how many of them, from the first, it has"
        require(labels == known[: len(labels)], key, value, rule, hint)
        before = by_phase[place - 1] if place else ()
        rule = f"has the labels of the phase before, {', '.join(before)}, and may add to them"
        require(labels[: len(before)] == before, key, value, rule, "a label that was released is not taken away")
    left = [label for label in known if label not in by_phase[-1]]
    rule = f"has all of model.labels in the last phase; {', '.join(left)} would never be learned"
    hint = "add a phase that has them, or take them out of model.labels"
    require(not left, f"phase.{len(by_phase) - 1}.labels", list(by_phase[-1]), rule, hint)
