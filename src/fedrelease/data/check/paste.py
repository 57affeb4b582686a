"""The lines of an experiment that takes the rows that were looked at; none where something about them is not clear.

Example::

    print(lines_to_paste("tweets.csv", rows, columns, roles, texts, {}, None))       # [model] ...
"""

import json
from collections.abc import Iterator, Mapping, Sequence

from fedrelease.data.check.findings import of_names
from fedrelease.data.check.roles import Roles
from fedrelease.data.check.sheets import Column, SheetRows
from fedrelease.data.check.tagged import may_be_shown
from fedrelease.data.check.texts import Lengths, Texts
from fedrelease.data.partition import LEAST_ROWS

__all__ = ["lines_to_paste"]

STEP = 8
"""Of a proposed ``max_length``."""
CHANNELS = "-16-32-32"
"""Of a proposed network: each halves height and width."""


def lines_to_paste(
    source: str,
    rows: SheetRows,
    columns: Sequence[Column],
    roles: Roles,
    texts: Texts,
    tags: Mapping[str, int],
    tokens: Lengths | None,
) -> str:
    """An experiment needs no more than these lines, where text, label and labels are clear."""
    names = _names(columns, roles, texts, tags)
    if roles.text.column is None or roles.label.column is None or len(names) < 2:
        return ""
    task = ['task = "token-classification"'] if tags else []
    lines = [
        "[model]",
        *(_images(rows.pixels) if rows.pixels else task),
        f"labels = [{', '.join(map(_quoted, names))}]",
    ]
    lines += ["[model.adapter]", 'kind = "full"'] if rows.pixels else []
    lines += ["[data]", f"source = {_quoted(source)}", *_data(roles, rows.pixels)]
    lines += ["[data.partition]", *_partition(columns, roles, len(texts.items))]
    if tokens is not None and not rows.pixels:
        lines += ["[training]", f"max_length = {-(-tokens.share_95 // STEP) * STEP}"]
    return "\n".join(lines) + "\n"


def _names(columns: Sequence[Column], roles: Roles, texts: Texts, tags: Mapping[str, int]) -> list[str]:
    """The labels; none where they look like texts."""
    if tags:
        return list(tags) if may_be_shown(tags) else []
    repeated = {name for group in texts.alike for name in group[1:]}
    return sorted({name.strip() for name in texts.labels.keys() - repeated}) if of_names(columns, roles, texts) else []


def _images(pixels: str) -> Iterator[str]:
    yield f"base = {_quoted(f'cnn:{pixels}{CHANNELS}')}"
    yield 'task = "image-classification"'


def _data(roles: Roles, pixels: str) -> Iterator[str]:
    if pixels:
        yield f"pixels = {_quoted(pixels)}"
        return
    yield f"text = {_quoted(str(roles.text.column))}"
    yield f"label = {_quoted(str(roles.label.column))}"


def _partition(columns: Sequence[Column], roles: Roles, rows: int) -> tuple[str, str]:
    least = min((column.distinct for column in columns if column.name == roles.site), default=0)
    by_site = roles.site is not None and 2 <= least <= rows // LEAST_ROWS
    return ('by = "column"', f"column = {_quoted(str(roles.site))}") if by_site else ('by = "iid"', "sites = 4")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
