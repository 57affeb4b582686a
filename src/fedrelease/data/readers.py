"""Readers of users' own rows: CSV, JSON lines, Parquet, CoNLL, a ``datasets`` folder, a hub id. They judge form, not content.

Example::

    sheet = read_source("tweets.csv")
    sheet.columns                    # ('text', 'label', 'site')
    next(iter(sheet.rows)).line      # 2: the first line under the header
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrelease.data.builtin import BUILT_IN
from fedrelease.data.conll import read_conll
from fedrelease.data.rows import RawRow, Sheet
from fedrelease.data.written import decoded, empty
from fedrelease.errors import DataError

if TYPE_CHECKING:
    import _csv

__all__ = ["kind_of", "read_source"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TORN = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What ``datasets`` raises about a folder whose files are not what it wrote."""
_DATASETS_MARKS = ("dataset_dict.json", "dataset_info.json", "state.json")


def kind_of(source: str) -> str:
    """Which reader fits: ``.csv``, ``.jsonl``, ``.parquet``, ``folder`` or ``hub``.

    Raises:
        DataError: there is no such file, or no reader for it.
    """
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        return "folder"
    if suffix in _FILE_READERS and path.is_file():
        return suffix
    readable = f"a file ends in {', '.join(sorted(_FILE_READERS))}"
    if path.is_file():
        raise DataError(f"{source} is of a kind that cannot be read", value=source, rule=readable, hint="convert it")
    if suffix in _FILE_READERS or not _HUB_ID.fullmatch(source):
        hint = f"relative paths start at the current folder, {Path.cwd()}"
        raise DataError(f"{source} does not exist", value=source, rule="[data] source names what is there", hint=hint)
    return "hub"


def read_source(source: str) -> Sheet:
    """Open a user's source.

    Raises:
        DataError: it does not exist, cannot be read, or holds no row.
    """
    kind = kind_of(source)
    if kind == "hub":
        return _read_hub(source)
    path = Path(source).expanduser()
    return _read_folder(path) if kind == "folder" else _FILE_READERS[kind](path)


def _read_csv(path: Path) -> Sheet:
    reader = csv.reader(io.StringIO(decoded(path), newline=""), strict=True)
    try:
        header = tuple(next(reader, ()))
    except csv.Error as error:
        raise DataError(f"{path.name} line 1 is not CSV: {error}", value=str(path), hint="mend its header") from error
    if not header:
        raise empty(path.name)
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        what = f"{path.name} has the column {repeated[0]} more than once"
        raise DataError(what, value=", ".join(header), rule="column names are unique", hint="rename one of them")
    return Sheet(name=path.name, place="line", columns=header, rows=_csv_rows(reader, header))


def _csv_rows(reader: "_csv.Reader", header: Sequence[str]) -> Iterator[RawRow]:
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield RawRow(line=line, values={}, fault=f"not CSV: {error}")
            continue
        if len(cells) == len(header):
            yield RawRow(line=line, values=dict(zip(header, cells, strict=True)))
        elif cells:
            yield RawRow(line=line, values={}, fault=f"it has {len(cells)} cells and the header has {len(header)}")


def _read_jsonl(path: Path) -> Sheet:
    lines = enumerate(decoded(path).split("\n"), start=1)
    rows = [_json_row(number, line) for number, line in lines if line.strip()]
    if not rows:
        raise empty(path.name)
    columns = tuple(dict.fromkeys(column for row in rows for column in row.values))
    return Sheet(name=path.name, place="line", columns=columns, rows=rows)


def _json_row(number: int, line: str) -> RawRow:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:  # no JSON, or a number of thousands of digits
        return RawRow(line=number, values={}, fault=f"not JSON: {error}")
    if not isinstance(value, dict):
        return RawRow(line=number, values={}, fault="it is not a JSON object")
    return RawRow(line=number, values=value)


def _read_parquet(path: Path) -> Sheet:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        rows = [row for batch in file.iter_batches() for row in batch.to_pylist()]
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        hint = "write it again with a Parquet writer"
        raise DataError(f"{path.name} is not a readable Parquet file: {error}", value=str(path), hint=hint) from error
    numbered = (RawRow(line=line, values=values) for line, values in enumerate(rows, start=1))
    return Sheet(name=path.name, place="row", columns=tuple(file.schema_arrow.names), rows=numbered)


def _read_folder(path: Path) -> Sheet:
    if not any((path / mark).is_file() for mark in _DATASETS_MARKS):
        rule = f"a folder was written by datasets' save_to_disk, so it holds one of {', '.join(_DATASETS_MARKS)}"
        raise DataError(
            f"{path} is not a datasets folder", value=str(path), rule=rule, hint="name a file in it instead"
        )
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except _TORN as error:
        hint = "write it again with save_to_disk"
        raise DataError(f"{path} does not load as datasets: {error}", value=str(path), hint=hint) from error
    return _datasets_sheet(path.name, loaded)


def _read_hub(source: str) -> Sheet:
    import datasets

    try:
        loaded = datasets.load_dataset(source)
    # The hub's client raises errors of several libraries' trees; all of them mean that the source cannot be had.
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200]
        hint = f"use a built-in source ({', '.join(sorted(BUILT_IN))}) or a local file, or go online"
        rule = "a source that is neither built in nor a local path is a hub id, which needs the network"
        raise DataError(f"{source} could not be loaded: {reason}", value=source, rule=rule, hint=hint) from error
    return _datasets_sheet(source, loaded)


def _datasets_sheet(name: str, loaded: Any) -> Sheet:
    """The rows of the ``train`` split, or of all splits in order of their names when there is none of that name."""
    splits = {"": loaded} if not isinstance(loaded, dict) else dict(loaded)
    if "train" in splits:
        splits = {"train": splits["train"]}
    ordered = [splits[split] for split in sorted(splits)]
    if not ordered or not any(len(split) for split in ordered):
        raise empty(name)
    features = ordered[0].features
    parts = {
        column: getattr(feature, "feature", feature) for column, feature in features.items()
    }  # of a list its parts
    classes = {column: tuple(part.names) for column, part in parts.items() if hasattr(part, "int2str")}
    rows = _datasets_rows(name, chain(*ordered))
    return Sheet(name=name, place="row", columns=tuple(features), rows=rows, classes=classes)


def _datasets_rows(name: str, found: Iterable[Mapping[str, object]]) -> Iterator[RawRow]:
    """Rows are decoded when they are asked for, so that a damaged one is found only then."""
    line = 0
    try:
        for line, values in enumerate(found, start=1):
            yield RawRow(line=line, values=values)
    except _TORN as error:
        what, hint = f"{name} row {line + 1} cannot be read: {error}", "write it again with save_to_disk"
        raise DataError(what, value=name, rule="a source can be read to its end", hint=hint) from error


_FILE_READERS: Mapping[str, Callable[[Path], Sheet]] = {
    ".bio": read_conll,
    ".conll": read_conll,
    ".csv": _read_csv,
    ".iob": read_conll,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
