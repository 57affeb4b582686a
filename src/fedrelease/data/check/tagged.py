"""Rows of words with a tag each, known by their form: a list of words, and a list of as many tags.

Example::

    tags_of(rows, roles)                     # {'O': 1180, 'B-LOC': 300, 'B-PER': 300}: words of each, 'O' first
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from fedrelease.data.check.findings import WARNING, Finding
from fedrelease.data.check.roles import Roles
from fedrelease.data.check.sheets import SheetRows

__all__ = ["may_be_shown", "tag_findings", "tags_of"]

OUTSIDE = "O"
MOST_TAGS = 100
WORDS_OF_A_TAG = 5
"""At least, on average: a column of other words, whose values are private, has about one of each."""


def tags_of(rows: SheetRows, roles: Roles) -> Mapping[str, int]:
    """The words of each tag; nothing where rows are of another form."""
    counts: Counter[str] = Counter()
    for row in rows.rows:
        words, tags = (row.values.get(role.column or "") for role in (roles.text, roles.label))
        if not (isinstance(words, list) and isinstance(tags, list)):
            return {}
        counts.update(_name(tag, rows.classes.get(roles.label.column or "", ())) for tag in tags)
    return {tag: counts[tag] for tag in sorted(counts, key=lambda tag: (tag != OUTSIDE, tag))}


def _name(tag: object, classes: Sequence[str]) -> str:
    known = isinstance(tag, int) and not isinstance(tag, bool) and 0 <= tag < len(classes)
    return classes[tag] if known and isinstance(tag, int) else str(tag)


def may_be_shown(tags: Mapping[str, int]) -> bool:
    """Whether they look like tags, and not like words of a text."""
    return 0 < len(tags) <= MOST_TAGS and sum(tags.values()) >= WORDS_OF_A_TAG * len(tags)


def tag_findings(tags: Mapping[str, int], roles: Roles) -> Iterator[Finding]:
    """What is odd about them."""
    if not may_be_shown(tags):
        column, words = str(roles.label.column), sum(tags.values())
        what = f"{column!r} has {len(tags)} different values for {words} words: they look like no tags"
        yield Finding(
            level=WARNING, what=what, fix="name another column with --label: in CoNLL files columns have numbers"
        )
    elif len(tags) == 1:
        fix = "bring rows with other tags, or name another column with --label"
        yield Finding(level=WARNING, what="all words have the same tag", fix=fix)
