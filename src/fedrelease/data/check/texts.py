"""What the rows of a text and a label are: counts, lengths, copies, contradictions. Texts stay here; line numbers leave.

Example::

    found = examine(rows, roles)
    found.labels                                             # {'ham': 4825, 'spam': 747}
    found.copies                                             # lines of rows whose text was seen before
"""

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedrelease.data.check.roles import Roles
from fedrelease.data.check.sheets import SheetRows, cell

__all__ = ["Item", "Lengths", "Texts", "examine", "lengths_of", "loosened", "texts_of"]

_MOJIBAKE = re.compile("\ufffd|Ã[\u0080-\u00bf]|â€|Â[\u00a0-\u00bf]")
_CONTROL = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True)
class Item:
    """A row whose text can be used; ``label`` is ``None`` where it has none."""

    line: int
    text: str
    label: str | None


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Of all texts, in words or in tokens; ``share_95`` is the 95th percentile."""

    median: float
    share_95: int
    longest: int


@dataclass(frozen=True, kw_only=True)
class Texts:
    """All that rows are asked for. Groups of lines are those of equal things, in the source's order.

    Attributes:
        items: rows with a usable text.
        no_text, no_label: lines where it is missing or empty. not_text: where it is a number or a list.
        surrogates: halves of a pair, which no UTF-8 can hold. nul: with a zero byte. garbled: with signs of a wrong decoding.
        control: with control characters.
        labels: rows of each, most frequent first. label_lines: the lines of each.
        copies: later rows whose text is there already. near: later rows that differ from one in case and spaces only.
        contradictions: groups of lines with one text and several labels.
        alike: groups of labels that differ in case and spaces only, the most frequent first.
    """

    items: tuple[Item, ...]
    no_text: tuple[int, ...]
    no_label: tuple[int, ...]
    not_text: tuple[int, ...]
    surrogates: tuple[int, ...]
    nul: tuple[int, ...]
    garbled: tuple[int, ...]
    control: tuple[int, ...]
    labels: Mapping[str, int]
    label_lines: Mapping[str, tuple[int, ...]]
    copies: tuple[int, ...]
    near: tuple[int, ...]
    contradictions: tuple[tuple[int, ...], ...]
    alike: tuple[tuple[str, ...], ...]


def examine(rows: SheetRows, roles: Roles) -> Texts:
    """Look at every row once; without a text column there are no items, without a label column no labels."""
    faults: dict[str, list[int]] = defaultdict(list)
    items = [item for item in (_item(rows, index, roles, faults) for index in range(len(rows.rows))) if item]
    return texts_of(items, faults)


def texts_of(items: Sequence[Item], faults: Mapping[str, Sequence[int]]) -> Texts:
    """What usable rows are together; ``faults``: lines of the others, by the names of :class:`Texts`."""
    lines: dict[str, list[int]] = defaultdict(list)
    for item in items:
        if item.label is not None:
            lines[item.label].append(item.line)
    counts = dict(Counter({label: len(found) for label, found in lines.items()}).most_common())
    copies = _later(items, lambda item: item.text)
    near = _later(items, lambda item: loosened(item.text))
    return Texts(
        items=tuple(items),
        no_text=tuple(faults.get("no_text", ())),
        no_label=tuple(faults.get("no_label", ())),
        not_text=tuple(faults.get("not_text", ())),
        surrogates=tuple(faults.get("surrogates", ())),
        nul=tuple(faults.get("nul", ())),
        garbled=tuple(item.line for item in items if _MOJIBAKE.search(item.text)),
        control=tuple(item.line for item in items if _CONTROL.search(item.text)),
        labels=counts,
        label_lines={label: tuple(found) for label, found in lines.items()},
        copies=copies,
        near=tuple(sorted(set(near) - set(copies))),
        contradictions=_contradictions(items),
        alike=_alike(counts),
    )


def _item(rows: SheetRows, index: int, roles: Roles, faults: Mapping[str, list[int]]) -> Item | None:
    """The row's text and label; what is wrong with them goes to ``faults``."""
    row = rows.rows[index]
    label = _label(rows, index, roles, faults)
    value = cell(rows, row, roles.text.column) if roles.text.column is not None else None
    if roles.text.column is None:
        return None
    fault = _fault(value)
    if fault is not None:
        faults[fault].append(row.line)
        return None
    return Item(line=row.line, text=str(value), label=label)


def _fault(value: object) -> str | None:
    if value is None:
        return "no_text"
    if not isinstance(value, str):
        return "not_text"
    if not value.strip():
        return "no_text"
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        return "surrogates"
    return "nul" if "\0" in value else None


def _label(rows: SheetRows, index: int, roles: Roles, faults: Mapping[str, list[int]]) -> str | None:
    if roles.label.column is None:
        return None
    row = rows.rows[index]
    value = cell(rows, row, roles.label.column)
    if value is None or not str(value).strip():
        faults["no_label"].append(row.line)
        return None
    return str(value)


def loosened(text: str) -> str:
    """The text without what case and spaces say."""
    return " ".join(text.casefold().split())


def _later(items: Sequence[Item], key: Callable[[Item], str]) -> tuple[int, ...]:
    seen = set[str]()
    later = []
    for item in items:
        own = key(item)
        if own in seen:
            later.append(item.line)
        seen.add(own)
    return tuple(later)


def _contradictions(items: Sequence[Item]) -> tuple[tuple[int, ...], ...]:
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.label is not None:
            groups[loosened(item.text)].append(item)
    found = [group for group in groups.values() if len({loosened(item.label or "") for item in group}) > 1]
    return tuple(tuple(item.line for item in group) for group in found)


def _alike(labels: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    groups: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        groups[loosened(label)].append(label)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def lengths_of(counts: Sequence[int]) -> Lengths | None:
    """Median, 95th percentile (the smallest length that 95 % do not exceed) and longest; ``None`` of no text."""
    if not counts:
        return None
    ordered = sorted(counts)
    return Lengths(
        median=statistics.median(ordered), share_95=ordered[(len(ordered) * 95 + 99) // 100 - 1], longest=ordered[-1]
    )
