"""What commands say and how: results to stdout, talk to stderr, one JSON document with ``--json``.

Example::

    rows = table("version", "accuracy>")          # a trailing > aligns to the right
    rows.add_row("0.0.1", "0.861")
    to_stdout().print(rows)
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from fedrelease.files import Json
from fedrelease.wording import plain

__all__ = [
    "Column",
    "emit",
    "emit_json",
    "example",
    "fitting",
    "put",
    "section",
    "table",
    "to_stderr",
    "to_stdout",
]

UNBOUNDED = 100_000


def to_stdout() -> Console:
    """The console of results. A file or a pipe gets plain text that is never wrapped, whatever its width."""
    return _console(sys.stdout)


def to_stderr() -> Console:
    """The console of talk, progress and errors."""
    return _console(sys.stderr)


def _console(file: TextIO) -> Console:
    width = None if file.isatty() or os.environ.get("COLUMNS") else UNBOUNDED
    return Console(file=file, width=width, markup=False, highlight=False, emoji=False)


def emit_json(document: Json) -> None:
    """Write one JSON document, and nothing else, to stdout."""
    _write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def put(console: Console, shown: RenderableType) -> None:
    """Print a table; without the spaces that fill its lines where it goes to a file or a pipe."""
    if console.is_terminal:
        console.print(shown)
        return
    with console.capture() as captured:
        console.print(shown)
    console.print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def emit(line: str) -> None:
    """Write one plain line to stdout."""
    _write(line + "\n")


def _write(text: str) -> None:
    """Write to stdout now. A reader that has gone away (``| head``) ends the program without a word."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def example(*lines: str) -> str:
    """The Example block that ends a command's help; the first character tells click to keep the lines as they are."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def table(*headers: str) -> Table:
    """A table without borders; the first column never wraps, a header that ends in ``>`` is aligned to the right."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, header in enumerate(headers):
        right = header.endswith(">")
        title = Text(header.removesuffix(">"))
        made.add_column(title, justify="right" if right else "left", no_wrap=right or index == 0, overflow="fold")
    return made


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table that may be left out where the terminal is narrow: the highest ``rank`` first, 0 never."""

    header: str
    cells: Sequence[str]
    rank: int = 0


def fitting(console: Console, columns: Sequence[Column]) -> Table:
    """The table of those columns that fit the console; nothing in them is cut."""
    kept = list(columns)
    while _made(kept).__rich_measure__(console, console.options.update(width=UNBOUNDED)).maximum > console.width:
        last = max(kept, key=lambda column: column.rank)
        if last.rank == 0:
            break
        kept.remove(last)
    return _made(kept)


def _made(columns: Sequence[Column]) -> Table:
    made = table(*(column.header for column in columns))
    for row in zip(*(column.cells for column in columns), strict=True):
        made.add_row(*(Text(plain(cell)) for cell in row))
    return made


def section(console: Console, title: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Print a title and its facts, one a line, names in one column; a fact without a value is left out."""
    console.print()
    console.print(Text(title, style="bold"))
    if not pairs:
        return
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _with_value(pairs):
        grid.add_row(Text(f"  {name}"), Text(plain(value)))
    put(console, grid)


def _with_value(pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in pairs if value)
