"""CoNLL files: a word and its tag a line, a blank line between sentences. They judge form, not content.

Example::

    sheet = read_conll(Path("eng.train.conll"))
    sheet.columns                    # ('text', 'label', '1', '2', '3', '4'): words, their tags, and every column by its number

Columns lie apart by tabs, or by spaces where a line has no tab. ``-DOCSTART-`` lines, which part documents, are left out.
Source: Tjong Kim Sang and De Meulder (2003), https://arxiv.org/abs/cs/0306050, section 2.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedrelease.data.rows import RawRow, Sheet
from fedrelease.data.written import decoded, empty

__all__ = ["conll_rows", "read_conll"]

WORDS, TAGS = "text", "label"
DOCUMENT = "-DOCSTART-"
_SPACES = re.compile(r"[ \t]+")


def read_conll(path: Path) -> Sheet:
    """Open a file; its first column is also called ``text``, and its last one ``label``.

    Raises:
        DataError: it is not UTF-8, or holds no sentence.
    """
    content = decoded(path)
    first = next((cells for _, cells in _lines(content) if cells and cells[0] != DOCUMENT), None)
    if first is None:
        raise empty(path.name)
    numbers = tuple(str(number) for number in range(1, len(first) + 1))
    rows = conll_rows(content, width=len(first))
    return Sheet(name=path.name, place="line", columns=(WORDS, TAGS, *numbers), rows=rows)


def conll_rows(content: str, *, width: int) -> Iterator[RawRow]:
    """One row a sentence, each column a list; a sentence with a bad line is a row with a fault, at that line."""
    sentence: list[tuple[int, Sequence[str]]] = []
    for line, cells in _lines(content + "\n\n"):
        if cells and cells[0] != DOCUMENT:
            sentence.append((line, cells))
        elif sentence:
            yield _row(sentence, width)
            sentence = []


def _lines(content: str) -> Iterator[tuple[int, Sequence[str]]]:
    """Line numbers and cells; no cell at all for a blank line."""
    for number, line in enumerate(content.split("\n"), start=1):
        found = line.strip(" \t\r")
        yield (
            number,
            [cell.strip(" ") for cell in found.split("\t")] if "\t" in found else _SPACES.split(found) if found else [],
        )


def _row(sentence: Sequence[tuple[int, Sequence[str]]], width: int) -> RawRow:
    for line, cells in sentence:
        if fault := _fault(cells, width):
            return RawRow(line=line, values={}, fault=fault)
    columns = [list(column) for column in zip(*(cells for _, cells in sentence), strict=True)]
    values: dict[str, object] = {WORDS: columns[0], TAGS: columns[-1]}
    values |= {str(number): column for number, column in enumerate(columns, start=1)}
    return RawRow(line=sentence[0][0], values=values, lines=tuple(line for line, _ in sentence))


def _fault(cells: Sequence[str], width: int) -> str | None:
    if len(cells) < 2:
        return f"it has the one cell {cells[0]!r:.60}; a line has a word and its tag, apart by a tab or spaces"
    if len(cells) != width:
        return f"it has {len(cells)} cells, and the file's first line has {width}"
    return "one of its cells is empty" if "" in cells else None
