"""Names of labels of which a text may have any number: how they are parted, and what one that does not apply is called.

Example::

    check_many(("spam", "offer"))
    negated("spam")                              # 'not spam'
"""

from collections.abc import Sequence

from fedrelease.bounds import require

__all__ = ["SEPARATORS", "check_many", "negated"]

SEPARATORS = ",;|"
"""Between the labels of one text, where they are no list."""


def negated(label: str) -> str:
    """What is counted where a label does not apply."""
    return f"not {label}"


def check_many(labels: Sequence[str]) -> None:
    """Refuse labels that a text could not tell apart.

    Raises:
        ExperimentError: one has a separator in it, or is called as another one is where it does not apply.
    """
    cut = [label for label in labels if any(mark in label for mark in SEPARATORS)]
    require(not cut, "model.labels", cut, f"has none of {' '.join(SEPARATORS)} in a label: they part labels")
    both = [label for label in labels if negated(label) in labels]
    require(not both, "model.labels", both, "has no label beside its own negation", "leave the negation out")
