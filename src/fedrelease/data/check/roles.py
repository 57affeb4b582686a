"""Which column is the text, which one the label, and which one says whose a row is: as named, else guessed, and said so.

Example::

    roles = roles_of(columns, text=None, label="stars")
    roles.text.column, roles.text.guessed                    # ('review', True)
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedrelease.data.check.sheets import Column, SheetRows
from fedrelease.errors import DataError

__all__ = ["Role", "Roles", "roles_of"]

TEXT_NAMES = ("text", "sentence", "review", "body", "message", "tweet", "question", "content", "comment", "utterance")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "rating", "stars", "intent", "y")
WORD_LISTS, TAG_LISTS = ("tokens", "words"), ("ner_tags", "tags", "pos_tags")
"""Names of columns that hold lists."""
SHOWN = 40
"""Letters of a column's name: without a header it is a text."""
SITE_NAMES = ("site", "partner", "client", "hospital", "source", "user")


@dataclass(frozen=True, kw_only=True)
class Role:
    """The column with a role; ``guessed`` where nobody named it, and ``None`` where none was found."""

    column: str | None
    guessed: bool


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Text, label, and the column that could tell sites apart."""

    text: Role
    label: Role
    site: str | None


def roles_of(rows: SheetRows, columns: Sequence[Column], *, text: str | None, label: str | None) -> Roles:
    """The roles of a source's columns; a named one has to be there.

    Raises:
        DataError: it is not.
    """
    for key, name in (("text", text), ("label", label)):
        if name is not None and name not in rows.columns:
            there = ", ".join(column[:SHOWN] for column in rows.columns) or "none"
            raise DataError(
                f"{rows.name} has no column {name!r}; its columns are: {there}",
                value=name,
                rule=f"[data] {key} names a column of the source",
                hint=f"--{key} with one of them, and [data] {key} in the experiment",
            )
    found_text = Role(column=text or _text(columns, without=label), guessed=text is None)
    found_label = Role(column=label or _label(columns, without=found_text.column), guessed=label is None)
    taken = {found_text.column, found_label.column}
    sites = [column.name for column in columns if column.name.lower() in SITE_NAMES and column.name not in taken]
    return Roles(text=found_text, label=found_label, site=sites[0] if sites else None)


def _text(columns: Sequence[Column], *, without: str | None) -> str | None:
    """By its name, whatever it holds (a text may be a number), else the column with the most words."""
    fit = [column for column in columns if column.kind != "nothing" and column.name != without]
    named = _named(fit, TEXT_NAMES) or _named(_lists(fit), WORD_LISTS)
    longest = max((column for column in fit if column.kind == "text"), key=lambda column: column.words, default=None)
    return named or (longest.name if longest else None)


def _label(columns: Sequence[Column], *, without: str | None) -> str | None:
    """By its name, else the column with the fewest different values, at least two; names before numbers."""
    kinds = ("names", "whole numbers", "true or false")
    fit = [column for column in columns if column.kind in kinds and column.name != without]
    others = [column for column in columns if column.kind != "nothing" and column.name != without]
    few = [column for column in fit if 2 <= column.distinct <= 50 and column.name.lower() not in SITE_NAMES]
    fewest = min(few, key=lambda column: (column.kind != "names", column.distinct), default=None)
    return _named(others, LABEL_NAMES) or _named(_lists(others), TAG_LISTS) or (fewest.name if fewest else None)


def _lists(columns: Sequence[Column]) -> list[Column]:
    return [column for column in columns if column.kind == "lists"]


def _named(columns: Sequence[Column], names: Sequence[str]) -> str | None:
    by_name = {column.name.strip().lower(): column.name for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), None)
