"""Cells of a row as a task wants them: a text, words, a label; or why the row cannot be used.

Example::

    cells = Cells(row=RawRow(line=2, values={"text": "fine", "label": "positive"}), labels=("negative", "positive"))
    cells.text("text"), cells.label("label")            # ('fine', 1)
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedrelease.data.rows import RawRow
from fedrelease.many_labels import SEPARATORS

__all__ = ["BadRow", "Cells", "Example", "shortened"]

_INTEGER = re.compile(r"([0-9]{1,9})(\.0+)?")
_SEPARATOR = re.compile(f"[{re.escape(SEPARATORS)}]")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)


class BadRow(Exception):
    """Why one row cannot be used; the reader of the source says where it is, or ``line`` where that is another one."""

    def __init__(self, reason: str, *, line: int | None = None) -> None:
        """``reason`` is half a sentence, such as ``'text' is empty``."""
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row that its task can use; private to whoever holds it.

    Attributes:
        text: what a hold-out and a fingerprint tell it by; not empty. Of an image the sha256 of its pixels.
        label: place among the labels, of the row as a whole: what partitions and counts go by.
        content: what the task needs beside the two, in values that JSON has; ``None`` where they are all.
        values: numbers to train on that follow from the content and the experiment; no part of what the row is.
        chat: whether it is shown to the model as turns of a chat. It is no part of a fingerprint: the row is the same one.
    """

    text: str
    label: int
    content: object = None
    values: tuple[float, ...] = ()
    chat: bool = False


@dataclass(frozen=True, kw_only=True)
class Cells:
    """One row, read column by column.

    Attributes:
        labels: of the experiment, in the order of the logits.
        classes: names of the integer classes of a column, where the source has them.
    """

    row: RawRow
    labels: Sequence[str]
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def present(self, column: str) -> object:
        """The cell's value.

        Raises:
            BadRow: the row could not be read, has no such cell, or null or NaN in it.
        """
        if self.row.fault is not None:
            raise BadRow(self.row.fault)
        value = self.row.values.get(column)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            raise BadRow(f"{column!r} is missing")
        return value

    def text(self, column: str) -> str:
        """A text that is not empty.

        Raises:
            BadRow: it is none.
        """
        return _text(column, self.present(column))

    def words(self, column: str) -> tuple[str, ...]:
        """Words: a list of texts, or one text with spaces between them.

        Raises:
            BadRow: there is none, or one of them is no text.
        """
        value = self.present(column)
        words = value.split() if isinstance(value, str) else value
        if not isinstance(words, list | tuple):
            raise BadRow(f"{column!r} is {shortened(value)}, which is neither a list of words nor a text")
        if not words:
            raise BadRow(f"{column!r} is empty")
        return tuple(_text(column, word) for word in words)

    def label(self, column: str) -> int:
        """The place of the cell's label.

        Raises:
            BadRow: the experiment has no such label.
        """
        return self._place(column, self.present(column))

    def tags(self, column: str) -> tuple[int, ...]:
        """The places of many labels: a list, or one text with spaces between them.

        Raises:
            BadRow: the experiment lacks one of them.
        """
        value = self.present(column)
        tags = value.split() if isinstance(value, str) else value
        if not isinstance(tags, list | tuple):
            raise BadRow(f"{column!r} is {shortened(value)}, which is neither a list of labels nor a text")
        return tuple(self._tag(column, place, tag) for place, tag in enumerate(tags))

    def many(self, column: str) -> tuple[int, ...]:
        """The places of any number of labels, each once: a list, or one text with ``,``, ``;`` or ``|`` between them.

        Nothing at all, an empty list or an empty text, is no label.

        Raises:
            BadRow: the experiment lacks one of them.
        """
        value = self.present(column)
        parts = _SEPARATOR.split(value) if isinstance(value, str) else value
        if isinstance(parts, int) and not isinstance(parts, bool):
            parts = [parts]
        if not isinstance(parts, list | tuple):
            raise BadRow(f"{column!r} is {shortened(value)}, which is neither a list of labels nor a text")
        told = [part for part in parts if not (isinstance(part, str) and not part.strip())]
        return tuple(sorted({self._place(column, part) for part in told}))

    def number(self, column: str) -> float:
        """A finite number, or a text that is one.

        Raises:
            BadRow: it is none.
        """
        value = self.present(column)
        text = str(value).strip()
        if isinstance(value, bool) or not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
            raise BadRow(f"{column!r} is {shortened(value)}, which is not a number")
        return float(text)

    def named(self, column: str) -> str:
        """The cell as the name of a group, such as a site.

        Raises:
            BadRow: it is empty.
        """
        value, classes = self.present(column), self.classes.get(column)
        text = classes[value] if classes and isinstance(value, int) and 0 <= value < len(classes) else str(value)
        if not text.strip():
            raise BadRow(f"{column!r} is empty")
        return text

    def _tag(self, column: str, place: int, tag: object) -> int:
        """A part of a list is told by its own line, or by its place in the list."""
        try:
            return self._place(column, tag)
        except BadRow as error:
            if self.row.lines:
                raise BadRow(str(error), line=self.row.lines[place]) from None
            raise BadRow(f"of word {place + 1} {error}") from None

    def _place(self, column: str, value: object) -> int:
        """Names win over indices; a source's own class names count when the experiment has labels of those names."""
        classes = self.classes.get(column)
        named = classes if classes is not None and set(classes) <= set(self.labels) else None
        if named is not None and isinstance(value, int) and 0 <= value < len(named):
            return self.labels.index(named[value])
        text = str(value).strip()
        if not isinstance(value, bool) and text in self.labels:
            return self.labels.index(text)
        number = _INTEGER.fullmatch(text)
        if not isinstance(value, bool) and number and int(number[1]) < len(self.labels):
            return int(number[1])
        rule = f"one of {', '.join(self.labels)}, or an index from 0 to {len(self.labels) - 1}"
        raise BadRow(f"{column!r} is {shortened(value)}, which is not {rule}")


def _text(column: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadRow(f"{column!r} is {shortened(value)}, which is not text")
    if not value.strip():
        raise BadRow(f"{column!r} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{column!r} holds half of a surrogate pair, which is not Unicode text") from None
    return value


def shortened(value: object) -> str:
    """A value as it is shown in a message: at most 60 letters of it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
