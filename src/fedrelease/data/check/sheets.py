"""A source as rows in memory, and what each of its columns holds. Nothing is judged here.

Example::

    rows = open_rows("tweets.csv", cache=cache_folder())
    [(column.name, column.kind) for column in columns_of(rows)]        # [('text', 'text'), ('label', 'names')]
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedrelease.data.builtin import BUILT_IN
from fedrelease.data.image_folders import guessed_labels, guessed_pixels, is_image_folder, read_image_folder
from fedrelease.data.images import IMAGES, image_sheet
from fedrelease.data.readers import read_source
from fedrelease.data.rows import RawRow, Sheet
from fedrelease.errors import DataError
from fedrelease.experiment import Experiment
from fedrelease.fetch import locate
from fedrelease.tasks import TASKS

__all__ = ["Column", "SheetRows", "cell", "columns_of", "open_rows"]

MOST_NAMES = 50
"""Values that a column of names has at most."""
LONGEST_NAME = 3.0
"""Words in a name, on average."""
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|nan|NaN", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class SheetRows:
    """A source that was read to its end.

    Attributes:
        place: what rows are counted in: ``line`` or ``row``.
        rows: those that could be read. faults: the others, with the reason.
        classes: names of the integer classes of a column, where the source has them.
        images: whether the text of a row is the sha256 of its pixels.
        pixels: what images of a folder were brought to, such as ``1x28x28``; else nothing.
    """

    name: str
    place: str
    columns: tuple[str, ...]
    rows: tuple[RawRow, ...]
    faults: tuple[RawRow, ...]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    images: bool = False
    pixels: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """What one column holds.

    Attributes:
        kind: ``text``, ``names``, ``whole numbers``, ``numbers``, ``true or false``, ``lists``, ``bytes``, ``mixed`` or
            ``nothing``.
        missing: lines without a value. empty: lines with nothing but spaces.
        distinct: different values. words: on average.
    """

    name: str
    kind: str
    missing: tuple[int, ...]
    empty: tuple[int, ...]
    distinct: int
    words: float


def open_rows(source: str, *, cache: Path, experiment: Experiment | None = None) -> SheetRows:
    """Read a source to its end; nothing is fetched.

    A folder of images is read as the experiment about images says, else with the labels and the size that its files have.

    Raises:
        DataError: it is not there, or is of no form that can be read row by row.
    """
    folder = Path(source).expanduser()
    about_images = experiment is None or TASKS[experiment.model.task].reads == "images"
    of_images = about_images and source not in BUILT_IN and is_image_folder(folder)
    pixels = _pixels(folder, experiment) if of_images else ""
    sheet = _image_folder(folder, experiment, pixels) if of_images else _sheet(source, cache)
    found = tuple(sheet.rows)
    return SheetRows(
        name=sheet.name,
        place=sheet.place,
        columns=sheet.columns,
        rows=tuple(row for row in found if row.fault is None),
        faults=tuple(row for row in found if row.fault is not None),
        classes=sheet.classes,
        images=of_images or source in IMAGES,
        pixels=pixels,
    )


def _pixels(folder: Path, experiment: Experiment | None) -> str:
    return guessed_pixels(folder) if experiment is None else experiment.data.pixels


def _image_folder(folder: Path, experiment: Experiment | None, pixels: str) -> Sheet:
    labels = guessed_labels(folder) if experiment is None else experiment.model.labels
    images, columns = read_image_folder(folder, labels, pixels)
    return image_sheet(folder.name, images, labels, **columns)


def _sheet(source: str, cache: Path) -> Sheet:
    if source in IMAGES:
        images = IMAGES[source]
        return image_sheet(source, images.read(_located(source, cache) if images.fetched else cache), images.labels)
    if source not in BUILT_IN:
        return read_source(source)
    built_in = BUILT_IN[source]
    folder = _located(built_in.fetched or source, cache)
    return Sheet(name=source, place="line", columns=built_in.columns, rows=built_in.read(folder))


def _located(source: str, cache: Path) -> Path:
    folder = locate(source, cache)
    if folder is None:
        raise DataError(f"{source} is not in the cache", value=str(cache), hint=f"fedrelease fetch {source}")
    return folder


def cell(rows: SheetRows, row: RawRow, column: str) -> object:
    """A value; ``None`` where there is none, and the name of a class where the source has names."""
    value = row.values.get(column)
    if isinstance(value, float) and math.isnan(value):
        return None
    names = rows.classes.get(column)
    if names and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    return value


def columns_of(rows: SheetRows) -> tuple[Column, ...]:
    """All columns, in the source's order."""
    return tuple(_column(rows, name) for name in rows.columns)


def _column(rows: SheetRows, name: str) -> Column:
    values = [(row.line, cell(rows, row, name)) for row in rows.rows]
    missing = tuple(line for line, value in values if value is None)
    empty = tuple(line for line, value in values if isinstance(value, str) and not value.strip())
    told = [value for _, value in values if value is not None and not (isinstance(value, str) and not value.strip())]
    distinct = len({repr(value) for value in told})
    words = sum(len(str(value).split()) for value in told) / len(told) if told else 0.0
    kind = _kind(told, distinct, words)
    return Column(name=name, kind=kind, missing=missing, empty=empty, distinct=distinct, words=words)


def _kind(values: Sequence[object], distinct: int, words: float) -> str:
    kinds = {_kind_of(value) for value in values}
    if kinds == {"whole numbers", "numbers"}:
        return "numbers"
    if len(kinds) != 1:
        texts = kinds <= {"words", "whole numbers", "numbers"}
        return "nothing" if not kinds else "mixed" if not texts else _words_kind(len(values), distinct, words)
    (kind,) = kinds
    return _words_kind(len(values), distinct, words) if kind == "words" else kind


def _words_kind(count: int, distinct: int, words: float) -> str:
    return "names" if distinct <= min(MOST_NAMES, max(2, count // 2)) and words <= LONGEST_NAME else "text"


def _kind_of(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, bytes):
        return "bytes"
    if isinstance(value, int) or (isinstance(value, str) and _WHOLE.fullmatch(value.strip())):
        return "whole numbers"
    if isinstance(value, float) or (isinstance(value, str) and _NUMBER.fullmatch(value.strip())):
        return "numbers"
    return "words" if isinstance(value, str) else "lists"
