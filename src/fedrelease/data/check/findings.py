"""What is wrong with rows, or could be, each with its lines and the way out. An error is what an experiment would refuse.

Example::

    for finding in findings_of(rows, columns, roles, texts):
        print(finding.level, finding.what, finding.lines[:8], finding.fix)
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedrelease.data.check.leaks import Dealt
from fedrelease.data.check.roles import Roles
from fedrelease.data.check.sheets import Column, SheetRows
from fedrelease.data.check.texts import Texts
from fedrelease.wording import plain

__all__ = ["ERROR", "WARNING", "Finding", "findings_of", "label_findings", "leak_findings", "of_names", "role_findings"]

ERROR, WARNING = "error", "warning"
MOST_LABELS = 50
FEW_ROWS = 100
FEW_OF_A_LABEL = 10
SHOWN = 40
"""Letters of a label, or of a column's name."""
FEW_NAMED = 5
MOST_WORDS = 5
"""Of a column's name."""
NAMES = ("names", "whole numbers", "numbers", "true or false")
"""Kinds of columns whose values are no texts."""
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?", re.ASCII)
_INDEX = re.compile(r"(?<=[0-9])\.0+$")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to fix. ``level``: ``error`` or ``warning``; ``lines``: where, in the source's own count."""

    level: str
    what: str
    lines: tuple[int, ...] = ()
    fix: str = ""


def findings_of(rows: SheetRows, columns: Sequence[Column], roles: Roles, texts: Texts) -> tuple[Finding, ...]:
    """All that can be told without an experiment, errors first."""
    found = [*_header(rows), *_unreadable(rows), *_cells(roles, texts), *_copies(texts)]
    found += [*_labels(columns, roles, texts), *_small(rows, columns)]
    return tuple(sorted(found, key=lambda finding: finding.level != ERROR))


def _unreadable(rows: SheetRows) -> Iterator[Finding]:
    by_reason: dict[str, list[int]] = defaultdict(list)
    for row in rows.faults:
        by_reason[str(row.fault)].append(row.line)
    for reason, lines in by_reason.items():
        yield Finding(level=ERROR, what=_cannot(rows, reason), lines=tuple(lines), fix=_mend(reason))
    if not rows.rows and not rows.faults:
        fix = "write rows under the header, or name another file"
        yield Finding(level=ERROR, what=f"{rows.name} holds no rows", fix=fix)


def _cannot(rows: SheetRows, reason: str) -> str:
    return f"the {rows.place} cannot be read: {plain(reason)}"


def _mend(reason: str) -> str:
    if "cells and the header has" in reason:
        return "put text with commas or line breaks between double quotes, or add the missing cells"
    if reason.startswith("not CSV"):
        return 'close the quote that is open there; a quote inside of a quoted cell is written twice: ""'
    return "write one JSON object a line" if "JSON" in reason else "mend or remove it"


def _header(rows: SheetRows) -> Iterator[Finding]:
    """A CSV without a header loses its first row, which becomes the names of its columns."""
    odd = [
        name for name in rows.columns if not name.strip() or len(name.split()) > MOST_WORDS or _NUMBER.fullmatch(name)
    ]
    if odd and rows.name.lower().endswith(".csv") and rows.rows:
        what = "the first line looks like a row, and not like the names of columns"
        yield Finding(level=WARNING, what=what, lines=(1,), fix="write a header above it, such as text,label")


def role_findings(rows: SheetRows, roles: Roles) -> Iterator[Finding]:
    """Columns that were neither named nor found."""
    there = ", ".join(plain(name)[:SHOWN] for name in rows.columns)
    for key, role in (("text", roles.text), ("label", roles.label)):
        if role.column is None and rows.rows:
            what = f"no column looks like the {key}; the columns are: {there}"
            yield Finding(level=ERROR, what=what, fix=f"name it: --{key} COLUMN, and [data] {key} in the experiment")


def _cells(roles: Roles, texts: Texts) -> Iterator[Finding]:
    text, label = plain(str(roles.text.column))[:SHOWN], plain(str(roles.label.column))[:SHOWN]
    told = (
        (ERROR, f"{text!r} is missing or empty", texts.no_text, "write a text there, or remove these rows"),
        (ERROR, f"{label!r} is missing or empty", texts.no_label, "write a label there, or remove these rows"),
        (ERROR, f"{text!r} is a number or a list, and no text", texts.not_text, "name the text's column with --text"),
        (
            ERROR,
            f"{text!r} holds half of a surrogate pair, which is not Unicode text",
            texts.surrogates,
            "write the file again from where the text came from: an emoji was cut in two",
        ),
        (ERROR, f"{text!r} holds a NUL byte", texts.nul, "save the file as UTF-8: as UTF-16 every other byte is NUL"),
        (
            WARNING,
            f"{text!r} looks as if it was decoded wrongly once",
            texts.garbled,
            "read it with the encoding that it was written in, and save it as UTF-8",
        ),
        (WARNING, f"{text!r} holds control characters", texts.control, "remove them: a model has no use for them"),
    )
    for level, what, lines, fix in told:
        if lines:
            yield Finding(level=level, what=what, lines=lines, fix=fix)


def _copies(texts: Texts) -> Iterator[Finding]:
    keep = "keep one of each: copies count twice in training, and may lie in a hold-out at another site"
    if texts.copies:
        what = f"rows whose text was there before: {len(texts.copies)}"
        yield Finding(level=WARNING, what=what, lines=texts.copies, fix=keep)
    if texts.near:
        what = f"rows that differ from an earlier one in case and spaces only: {len(texts.near)}"
        yield Finding(level=WARNING, what=what, lines=texts.near, fix=keep)
    if texts.contradictions:
        lines = tuple(line for group in texts.contradictions for line in group)
        what = f"texts with several labels: {len(texts.contradictions)}"
        fix = "decide for one label a text, or remove them: no model can be right about them"
        yield Finding(level=WARNING, what=what, lines=lines, fix=fix)


def of_names(columns: Sequence[Column], roles: Roles, texts: Texts) -> bool:
    """Whether the values of the label's column may be told: it has few, and they are no texts."""
    kind = next((column.kind for column in columns if column.name == roles.label.column), "nothing")
    return kind in NAMES and 0 < len(texts.labels) <= MOST_LABELS


def _labels(columns: Sequence[Column], roles: Roles, texts: Texts) -> Iterator[Finding]:
    if roles.label.column is None or not texts.labels:
        return
    if len(texts.labels) == 1:
        what = "all rows have the same label"
        yield Finding(level=ERROR, what=what, fix="bring rows of another label, or name another column with --label")
    if not of_names(columns, roles, texts):
        what = (
            f"{plain(roles.label.column)[:SHOWN]!r} has {len(texts.labels)} different values that look like no labels"
        )
        yield Finding(level=WARNING, what=what, fix="name another column with --label, or put values together")
        return
    for group in texts.alike:
        lines = tuple(line for label in group[1:] for line in texts.label_lines[label])
        what = f"labels that differ in case and spaces only: {', '.join(repr(plain(one)[:SHOWN]) for one in group)}"
        yield Finding(level=WARNING, what=what, lines=lines, fix=f"write all of them as {plain(group[0])[:SHOWN]!r}")
    for label, count in texts.labels.items():
        if count < FEW_OF_A_LABEL:
            what = f"few rows of label {plain(label)[:SHOWN]!r}: {count}"
            fix = "bring more of them, or put the label together with another"
            yield Finding(level=WARNING, what=what, lines=texts.label_lines[label], fix=fix)


def _small(rows: SheetRows, columns: Sequence[Column]) -> Iterator[Finding]:
    if 0 < len(rows.rows) < FEW_ROWS:
        what = f"few rows: {len(rows.rows)}"
        yield Finding(level=WARNING, what=what, fix="a fifth of them is held out; an accuracy of so few tells little")
    for column in columns:
        if column.kind == "nothing" and rows.rows:
            what = f"column {plain(column.name)!r} is empty"
            yield Finding(level=WARNING, what=what, fix="remove it, or leave it: nothing reads it")


def label_findings(texts: Texts, labels: Sequence[str], *, shown: bool) -> Iterator[Finding]:
    """What does not fit the labels of an experiment: names, or indices into them. Values are told where they may be ``shown``."""
    known = {*labels, *(str(place) for place in range(len(labels)))}
    strange = {label: lines for label, lines in texts.label_lines.items() if _INDEX.sub("", label.strip()) not in known}
    if strange:
        told = list(strange)[:FEW_NAMED] if shown else []
        names = ", ".join(repr(plain(label)[:SHOWN]) for label in told)
        more = f"{' and ' if told else ''}{len(strange) - len(told)} {'more' if told else 'values'}"
        more = more if len(strange) > len(told) else ""
        lines = tuple(sorted(line for found in strange.values() for line in found))
        fix = f"write one of {', '.join(labels)}, or add them to [model] labels"
        yield Finding(
            level=ERROR, what=f"labels that the experiment does not have: {names}{more}", lines=lines, fix=fix
        )


def leak_findings(dealt: Dealt) -> Iterator[Finding]:
    """Rows that the experiment deals out to where they should not be."""
    if dealt.two_sites:
        what = f"rows whose text another site has too: {len(dealt.two_sites)}"
        fix = "keep it at one site: what one site trains on, another may hold out"
        yield Finding(level=WARNING, what=what, lines=dealt.two_sites, fix=fix)
    if dealt.in_both:
        what = f"rows of hold-outs whose text somebody trains on: {len(dealt.in_both)}"
        fix = "keep one row of each text: a model that remembers it looks better than it is"
        yield Finding(level=WARNING, what=what, lines=dealt.in_both, fix=fix)
    for warning in dealt.warnings:
        fix = "bring rows of other labels there, or set another [data.partition]"
        yield Finding(level=WARNING, what=plain(warning), fix=fix)
