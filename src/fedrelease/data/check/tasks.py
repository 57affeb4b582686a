"""Rows of tasks other than classification, read as the task reads them: a text alone, or words with a tag each.

Example::

    items, findings = read_as(task, rows, data, labels)
"""

import re
from collections import defaultdict
from collections.abc import Sequence

from fedrelease.data.cells import BadRow, Cells
from fedrelease.data.check.findings import ERROR, Finding
from fedrelease.data.check.sheets import SheetRows
from fedrelease.data.check.texts import Item
from fedrelease.experiment import Data
from fedrelease.tasks.contract import Task
from fedrelease.wording import plain

__all__ = ["read_as"]

_VALUE = re.compile(" is .*, which ", re.DOTALL)


def read_as(
    task: Task, rows: SheetRows, data: Data, labels: Sequence[str]
) -> tuple[tuple[Item, ...], tuple[Finding, ...]]:
    """Rows that the task can use, and an error for each reason why it cannot use others; no value of a cell is in it."""
    items, faults = [], defaultdict[str, list[int]](list)
    for row in rows.rows:
        try:
            example = task.read(Cells(row=row, labels=labels, classes=rows.classes), data)
        except BadRow as error:
            faults[_VALUE.sub(" is something which ", str(error))].append(row.line)
        else:
            items.append(Item(line=row.line, text=task.whole(example), label=None))
    fix = f"write what {task.name} reads: see [data] text and label in docs/experiment.md"
    found = (Finding(level=ERROR, what=plain(why), lines=tuple(lines), fix=fix) for why, lines in faults.items())
    return tuple(items), tuple(found)
