"""A source of rows as one checked table: texts, label indices, and the column that a partition needs.

Example::

    table = load_table(Data(source="four-sites"), ("negative", "positive"), cache=cache_folder())
    table.texts[0], table.labels[0], table.columns["site"][0]
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from fedrelease.catalog import CATALOG
from fedrelease.data.builtin import BUILT_IN
from fedrelease.data.images import IMAGES, image_labels, image_sheet
from fedrelease.data.readers import kind_of, read_source
from fedrelease.data.rows import RawRow, Sheet
from fedrelease.errors import DataError
from fedrelease.experiment import Data
from fedrelease.fetch import FetchProgress, fetch, locate
from fedrelease.files import canonical_bytes, digest_bytes, digest_file

__all__ = ["Table", "load_table", "source_digest", "table_digest"]

_INTEGER = re.compile(r"([0-9]{1,9})(\.0+)?")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that passed every check; private to whoever holds them.

    Attributes:
        texts: not empty, in the source's order; of an image, the sha256 of its pixels.
        labels: index into the experiment's labels, one a row.
        columns: the partition's column, one text a row; empty when the partition needs none.
        features: of images, float32 [rows, width]; ``None`` for texts.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    columns: Mapping[str, tuple[str, ...]]
    features: Tensor | None = None


def load_table(
    data: Data,
    labels: Sequence[str],
    *,
    cache: Path,
    fetch_missing: bool = True,
    progress: Callable[[FetchProgress], None] | None = None,
) -> Table:
    """Read a whole source.

    Args:
        data: source and column names; ``data.partition`` decides whether a column is kept.
        labels: the experiment's labels; a row's label is one of these names, or an index into them.
        cache: where built-in sources are, or are fetched to.
        fetch_missing: fetch a built-in source that is not in the cache; otherwise it is refused.
        progress: told about a fetch.

    Guarantees: nothing is dropped or mended in silence: one bad row refuses the whole source, with its place and
    reason.

    Raises:
        DataError: the source, a column or a row cannot be used.
        FetchError: a built-in source cannot be fetched.
    """
    if data.source in IMAGES:
        return _images(data, labels)
    built_in = data.source in BUILT_IN
    sheet = (
        _open_built_in(data.source, labels, cache, fetch_missing, progress) if built_in else read_source(data.source)
    )
    column = data.partition.column if data.partition.by == "column" else None
    _check_columns(sheet, data, column)
    return _checked(sheet, data, labels, column)


def _images(data: Data, labels: Sequence[str]) -> Table:
    _check_labels(data.source, labels, image_labels(data.source))
    sheet, column = image_sheet(data.source), data.partition.column if data.partition.by == "column" else None
    _check_columns(sheet, data, column)
    return replace(_checked(sheet, data, labels, column), features=IMAGES[data.source]()[0])


def _check_labels(alias: str, labels: Sequence[str], own: Sequence[str]) -> None:
    if set(labels) != set(own):
        rule = f"the labels of {alias} are {', '.join(own)}, in any order"
        names = ", ".join(f'"{label}"' for label in own)
        hint = f"set [model] labels = [{names}]"
        raise DataError(f"[model] labels do not fit the source {alias}", value=list(labels), rule=rule, hint=hint)


def _open_built_in(
    alias: str,
    labels: Sequence[str],
    cache: Path,
    fetch_missing: bool,
    progress: Callable[[FetchProgress], None] | None,
) -> Sheet:
    source = BUILT_IN[alias]
    _check_labels(alias, labels, source.labels)
    folder = fetch(alias, cache=cache, progress=progress) if fetch_missing else locate(alias, cache)
    if folder is None:
        hint = "run it once with a network, or set FEDRELEASE_CACHE to a cache that has it"
        raise DataError(f"{alias} is not in the cache", value=str(cache), rule="fetching was not allowed", hint=hint)
    return Sheet(name=alias, place="line", columns=source.columns, rows=source.read(folder))


def _check_columns(sheet: Sheet, data: Data, column: str | None) -> None:
    wanted = [("[data] text", data.text), ("[data] label", data.label)]
    wanted += [("[data.partition] column", column)] if column is not None else []
    for key, name in wanted:
        if name not in sheet.columns:
            there = ", ".join(sheet.columns) or "none"
            hint = f"set {key} to one of them"
            if name == column:
                hint += ', or set [data.partition] by = "iid" or "dirichlet"'
            what = f"{sheet.name} has no column {name!r}; its columns are: {there}"
            raise DataError(what, value=name, rule=f"{key} names a column of the source", hint=hint)


def _checked(sheet: Sheet, data: Data, labels: Sequence[str], column: str | None) -> Table:
    texts: list[str] = []
    indices: list[int] = []
    values: list[str] = []
    faults: list[tuple[int, str]] = []
    label_of = _label_reader(data.label, labels, sheet.classes.get(data.label))
    for row in sheet.rows:
        try:
            text, index = _text(row, data.text), label_of(row)
            value = "" if column is None else _cell(row, column, sheet.classes.get(column))
        except _BadRow as error:
            faults.append((row.line, str(error)))
            continue
        texts.append(text)
        indices.append(index)
        values.append(value)
    _refuse_faults(sheet, faults, len(texts))
    columns = {} if column is None else {column: tuple(values)}
    return Table(texts=tuple(texts), labels=tuple(indices), columns=columns)


class _BadRow(Exception):
    """Why one row cannot be used; never leaves this module."""


def _refuse_faults(sheet: Sheet, faults: Sequence[tuple[int, str]], good: int) -> None:
    if faults:
        line, reason = faults[0]
        more = f"; {len(faults) - 1} more rows are bad" if len(faults) > 1 else ""
        what = f"{sheet.name} {sheet.place} {line} cannot be used: {reason}{more}"
        hint = f"mend or remove {'those rows' if more else 'that row'}"
        raise DataError(what, rule="every row has a text and a label of the experiment", hint=hint)
    if not good:
        raise DataError(f"{sheet.name} holds no rows", rule="a source has at least one row", hint="name another source")


def _present(row: RawRow, column: str) -> object:
    """The cell's value; a row without it, or with null or NaN in it, is bad."""
    if row.fault is not None:
        raise _BadRow(row.fault)
    value = row.values.get(column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise _BadRow(f"{column!r} is missing")
    return value


def _text(row: RawRow, column: str) -> str:
    value = _present(row, column)
    if not isinstance(value, str):
        raise _BadRow(f"{column!r} is {_shortened(value)}, which is not text")
    if not value.strip():
        raise _BadRow(f"{column!r} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _BadRow(f"{column!r} holds half of a surrogate pair, which is not Unicode text") from None
    return value


def _cell(row: RawRow, column: str, classes: Sequence[str] | None) -> str:
    value = _present(row, column)
    text = classes[value] if classes and isinstance(value, int) and 0 <= value < len(classes) else str(value)
    if not text.strip():
        raise _BadRow(f"{column!r} is empty")
    return text


def _label_reader(column: str, labels: Sequence[str], classes: Sequence[str] | None) -> Callable[[RawRow], int]:
    """Names win over indices; a source's own class names count when the experiment has labels of those names."""
    by_name = {name: index for index, name in enumerate(labels)}
    named = classes if classes is not None and set(classes) <= set(labels) else None

    def read(row: RawRow) -> int:
        value = _present(row, column)
        if named is not None and isinstance(value, int) and 0 <= value < len(named):
            return by_name[named[value]]
        text = str(value).strip()
        if not isinstance(value, bool) and text in by_name:
            return by_name[text]
        number = _INTEGER.fullmatch(text)
        if not isinstance(value, bool) and number and int(number[1]) < len(labels):
            return int(number[1])
        rule = f"one of {', '.join(labels)}, or an index from 0 to {len(labels) - 1}"
        raise _BadRow(f"{column!r} is {_shortened(value)}, which is not {rule}")

    return read


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def source_digest(source: str) -> str | None:
    """The sha256 of a source's content without reading its rows; ``None`` where the content is elsewhere: a hub, a library.

    Raises:
        DataError: the source does not exist.
    """
    if source in IMAGES:
        return None
    if source in BUILT_IN:
        return CATALOG[source].digest
    kind = kind_of(source)
    path = Path(source).expanduser()
    if kind == "hub":
        return None
    if kind == "folder":
        files = sorted(inner for inner in path.rglob("*") if inner.is_file())
        return digest_bytes(
            canonical_bytes({inner.relative_to(path).as_posix(): digest_file(inner) for inner in files})
        )
    return digest_file(path)


def table_digest(table: Table) -> str:
    """The sha256 of all that a table holds."""
    columns = {name: list(values) for name, values in table.columns.items()}
    return digest_bytes(canonical_bytes({"texts": table.texts, "labels": table.labels, "columns": columns}))
