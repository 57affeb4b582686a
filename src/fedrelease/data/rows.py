"""A source's rows as they were found, before anybody judged their content.

Example::

    RawRow(line=2, values={"text": "fine", "label": "positive"})
    RawRow(line=3, values={}, fault="it has 2 cells and the header has 3")
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["RawRow", "Sheet"]


@dataclass(frozen=True, kw_only=True)
class RawRow:
    """One row as it was found.

    Attributes:
        line: physical line (CSV, JSON lines) or row number, counted from 1.
        values: by column; empty when the row could not be read at all.
        fault: why it could not be read.
        lines: of the parts of its lists, where each has a line of its own.
    """

    line: int
    values: Mapping[str, object]
    fault: str | None = None
    lines: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What a source holds.

    Attributes:
        name: of the source, for messages.
        place: what its rows are counted in: ``line`` or ``row``.
        columns: their names.
        rows: in the source's order; can be gone through once.
        classes: names of the integer classes of a column, where the source has them.
    """

    name: str
    place: str
    columns: tuple[str, ...]
    rows: Iterable[RawRow]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
