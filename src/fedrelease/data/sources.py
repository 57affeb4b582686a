"""A source of rows as one checked table: texts, label indices, and the column that a partition needs.

Example::

    table = load_table(Data(source="four-sites"), ("negative", "positive"), cache=cache_folder())
    table.texts[0], table.labels[0], table.columns["site"][0]
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

from torch import Tensor

from fedrelease.catalog import CATALOG
from fedrelease.data.builtin import BUILT_IN
from fedrelease.data.cells import BadRow, Cells, Example
from fedrelease.data.image_folders import is_image_folder, read_image_folder
from fedrelease.data.images import IMAGES, Images, image_sheet
from fedrelease.data.readers import kind_of, read_source
from fedrelease.data.rows import Sheet
from fedrelease.errors import DataError
from fedrelease.experiment import Data
from fedrelease.experiment_sections import FIXED_LABELS
from fedrelease.fetch import FetchProgress, fetch, locate
from fedrelease.files import Json, canonical_bytes, digest_bytes, digest_file
from fedrelease.tasks import TASKS
from fedrelease.tasks.contract import Task

__all__ = ["Table", "load_table", "source_digest", "table_digest"]

WANTED = {"text": "a text", "label": "a label of the experiment", "target": "a text to come out"}
"""What a row has in the column that a key of ``[data]`` names."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that passed every check; private to whoever holds them.

    Attributes:
        examples: in the source's order.
        columns: the partition's column, one text a row; empty when the partition needs none.
        features: of images, float32 [rows, width]; ``None`` for texts.
    """

    examples: tuple[Example, ...]
    columns: Mapping[str, tuple[str, ...]]
    features: Tensor | None = None

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """What rows are told by, one text a row."""
        return tuple(example.text for example in self.examples)

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """Place among the experiment's labels, one a row."""
        return tuple(example.label for example in self.examples)


def load_table(
    data: Data,
    labels: Sequence[str],
    *,
    cache: Path,
    task: str = "text-classification",
    fetch_missing: bool = True,
    progress: Callable[[FetchProgress], None] | None = None,
) -> Table:
    """Read a whole source.

    Args:
        data: source and column names; ``data.partition`` decides whether a column is kept.
        labels: the experiment's labels; a row's label is one of these names, or an index into them.
        cache: where built-in sources are, or are fetched to.
        task: what the rows are for.
        fetch_missing: fetch a built-in source that is not in the cache; otherwise it is refused.
        progress: told about a fetch.

    Guarantees: nothing is dropped or mended in silence: one bad row refuses the whole source, with its place and
    reason.

    Raises:
        DataError: the source, a column or a row cannot be used.
        FetchError: a built-in source cannot be fetched.
    """
    wanted = TASKS[task]
    column = data.partition.column if data.partition.by == "column" else None
    if data.source in IMAGES or (wanted.reads == "images" and is_image_folder(Path(data.source).expanduser())):
        images, sheet = _images(data, labels, cache, fetch_missing, progress)
        _check_columns(sheet, wanted, data, column)
        return replace(_checked(sheet, wanted, data, labels, column), features=images[0])
    built_in = data.source in BUILT_IN
    sheet = (
        _open_built_in(data.source, wanted, labels, cache, fetch_missing, progress)
        if built_in
        else read_source(data.source)
    )
    _check_columns(sheet, wanted, data, column)
    return _checked(sheet, wanted, data, labels, column)


def _images(
    data: Data,
    labels: Sequence[str],
    cache: Path,
    fetch_missing: bool,
    progress: Callable[[FetchProgress], None] | None,
) -> tuple[Images, Sheet]:
    if data.source not in IMAGES:
        images, columns = read_image_folder(Path(data.source).expanduser(), labels, data.pixels)
        return images, image_sheet(Path(data.source).name, images, labels, **columns)
    source = IMAGES[data.source]
    _check_labels(data.source, labels, source.labels)
    images = source.read(_fetched(data.source, cache, fetch_missing, progress) if source.fetched else cache)
    return images, image_sheet(data.source, images, source.labels)


def _check_labels(alias: str, labels: Sequence[str], own: Sequence[str]) -> None:
    if set(labels) != set(own):
        rule = f"the labels of {alias} are {', '.join(own)}, in any order"
        names = ", ".join(f'"{label}"' for label in own)
        fixed = [task for task, labels_of in FIXED_LABELS.items() if labels_of == own]
        hint = f'set [model] task = "{fixed[0]}"' if fixed else f"set [model] labels = [{names}]"
        raise DataError(f"[model] labels do not fit the source {alias}", value=list(labels), rule=rule, hint=hint)


def _open_built_in(
    alias: str,
    task: Task,
    labels: Sequence[str],
    cache: Path,
    fetch_missing: bool,
    progress: Callable[[FetchProgress], None] | None,
) -> Sheet:
    source = BUILT_IN[alias]
    if "label" in task.columns:
        _check_labels(alias, labels, source.labels)
    folder = _fetched(source.fetched or alias, cache, fetch_missing, progress)
    return Sheet(name=alias, place="line", columns=source.columns, rows=source.read(folder))


def _fetched(alias: str, cache: Path, fetch_missing: bool, progress: Callable[[FetchProgress], None] | None) -> Path:
    folder = fetch(alias, cache=cache, progress=progress) if fetch_missing else locate(alias, cache)
    if folder is None:
        hint = "run it once with a network, or set FEDRELEASE_CACHE to a cache that has it"
        raise DataError(f"{alias} is not in the cache", value=str(cache), rule="fetching was not allowed", hint=hint)
    return folder


def _check_columns(sheet: Sheet, task: Task, data: Data, column: str | None) -> None:
    named = (*task.columns, *(("prompt",) if data.prompt is not None else ()))
    wanted = [(f"[data] {key}", getattr(data, key)) for key in named]
    wanted += [("[data.partition] column", column)] if column is not None else []
    for key, name in wanted:
        if name not in sheet.columns:
            there = ", ".join(sheet.columns) or "none"
            hint = f"set {key} to one of them"
            if name == column:
                hint += ', or set [data.partition] by = "iid" or "dirichlet"'
            what = f"{sheet.name} has no column {name!r}; its columns are: {there}"
            raise DataError(what, value=name, rule=f"{key} names a column of the source", hint=hint)


def _checked(sheet: Sheet, task: Task, data: Data, labels: Sequence[str], column: str | None) -> Table:
    examples: list[Example] = []
    values: list[str] = []
    faults: list[tuple[int, str]] = []
    for row in sheet.rows:
        cells = Cells(row=row, labels=labels, classes=sheet.classes)
        try:
            example, value = task.read(cells, data), "" if column is None else cells.named(column)
        except BadRow as error:
            faults.append((row.line if error.line is None else error.line, str(error)))
            continue
        examples.append(example)
        values.append(value)
    _refuse_faults(sheet, task, faults, len(examples))
    return Table(examples=tuple(examples), columns={} if column is None else {column: tuple(values)})


def _refuse_faults(sheet: Sheet, task: Task, faults: Sequence[tuple[int, str]], good: int) -> None:
    if faults:
        line, reason = faults[0]
        more = f"; {len(faults) - 1} more rows are bad" if len(faults) > 1 else ""
        what = f"{sheet.name} {sheet.place} {line} cannot be used: {reason}{more}"
        hint = f"mend or remove {'those rows' if more else 'that row'}"
        rule = f"every row has {' and '.join(WANTED[key] for key in task.columns)}"
        raise DataError(what, rule=rule, hint=hint)
    if not good:
        raise DataError(f"{sheet.name} holds no rows", rule="a source has at least one row", hint="name another source")


def source_digest(source: str) -> str | None:
    """The sha256 of a source's content without reading its rows; ``None`` where the content is elsewhere: a hub, a library.

    Raises:
        DataError: the source does not exist.
    """
    if source in IMAGES and not IMAGES[source].fetched:
        return None
    fetched = BUILT_IN[source].fetched if source in BUILT_IN else None
    if fetched is not None:
        return digest_bytes(canonical_bytes({"source": source, "of": CATALOG[fetched].digest}))
    if source in BUILT_IN or source in IMAGES:
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
    content: list[Json] = [cast(Json, example.content) for example in table.examples]
    more: dict[str, Json] = {"content": content} if any(one is not None for one in content) else {}
    return digest_bytes(canonical_bytes({"texts": table.texts, "labels": table.labels, "columns": columns, **more}))
