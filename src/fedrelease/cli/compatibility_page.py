"""The compatibility table as people read it: a table a task, and a note for each refusal; in the terminal or as Markdown.

Example::

    markdown_section("causal-lm", rows)              # '### causal-lm\\n\\n| adapter | bert | gpt2 | ...'
"""

from collections.abc import Sequence

from rich.text import Text

from fedrelease.cli.output import put, table, to_stdout
from fedrelease.client.compatibility.engines import Outcome
from fedrelease.client.compatibility.table import PRIVATE, Tried
from fedrelease.files import Json
from fedrelease.wording import plain

__all__ = ["LEGEND", "compatibility_document", "markdown_section", "print_section"]

LEGEND = (
    "formed, booked: private training works by that engine, and training without privacy too",
    "together: beside that, many small sites train in one computation",
    "no privacy: only with [privacy] unit = none; no: refused before anything is trained; WRONG: a fault",
)


class _Notes:
    """Why not, each reason once, numbered from 1 in the order of the cells; what was given is that of the first cell."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, str, str], str] = {}

    @property
    def texts(self) -> list[str]:
        return list(self._texts.values())

    def number(self, outcome: Outcome) -> int:
        nearest = outcome.instead or outcome.hint
        key = (outcome.what, outcome.rule, nearest)
        self._texts.setdefault(key, _note(outcome))
        return list(self._texts).index(key) + 1


def _note(outcome: Outcome) -> str:
    given = f" ({outcome.given.strip('()')})" if outcome.given and outcome.given not in outcome.what else ""
    rule = f": {outcome.rule}" if outcome.rule else ""
    way_out = f" Works: {outcome.instead}." if outcome.instead else f" Try: {outcome.hint}." if outcome.hint else ""
    return f"{outcome.what}{given}{rule}.{way_out}"


def _cell(row: Tried, notes: _Notes) -> str:
    if row.wrong:
        return f"WRONG ({notes.number(row.outcomes[row.wrong[0]])})"
    private = [name for name in row.works if name != "plain"]
    if private and "plain" in row.works:
        return ", ".join(private)
    refused = next(row.outcomes[name] for name in (*PRIVATE, "plain") if row.outcomes[name].status == "refused")
    kept = "no privacy" if "plain" in row.works else "no"
    return f"{kept} ({notes.number(refused)})"


def _grid(rows: Sequence[Tried]) -> tuple[list[list[str]], list[str]]:
    """Cells with their headers, adapters below each other and bases side by side; and the notes."""
    notes, found = _Notes(), {(row.adapter, row.base): row for row in rows}
    adapters, bases = list(dict.fromkeys(row.adapter for row in rows)), list(dict.fromkeys(row.base for row in rows))
    lines = [[adapter, *(_cell(found[adapter, base], notes) for base in bases)] for adapter in adapters]
    return [["adapter", *bases], *lines], notes.texts


def markdown_section(task: str, rows: Sequence[Tried]) -> str:
    """A task's heading, table and notes; ends with one line end."""
    (header, *lines), notes = _grid(rows)
    cells = [header, ["---"] * len(header), *([f"`{line[0]}`", *line[1:]] for line in lines)]
    whole = "\n".join("| " + " | ".join(line) + " |" for line in cells)
    told = "".join(f"\n{place}. {note}" for place, note in enumerate(notes, start=1))
    return f"### {task}\n\n{whole}\n" + (f"{told}\n" if told else "")


def print_section(task: str, rows: Sequence[Tried]) -> None:
    """The same in the terminal."""
    console, ((header, *lines), notes) = to_stdout(), _grid(rows)
    console.print(Text(task, style="bold"))
    shown = table(*header)
    for line in lines:
        shown.add_row(*(Text(plain(cell)) for cell in line))
    put(console, shown)
    for place, note in enumerate(notes, start=1):
        console.print(Text(f"({place}) {plain(note)}"))
    console.print()


def compatibility_document(rows: Sequence[Tried]) -> dict[str, Json]:
    """As ``--json`` prints it; keys are added, never renamed."""
    return {
        "ok": not any(row.wrong for row in rows),
        "combinations": [
            {
                "task": row.task,
                "base": row.base,
                "adapter": row.adapter,
                "engines": {name: _told(one) for name, one in row.outcomes.items()},
            }
            for row in rows
        ],
    }


def _told(outcome: Outcome) -> Json:
    told: dict[str, Json] = {"status": outcome.status}
    parts = {key: str(getattr(outcome, key)) for key in ("what", "given", "rule", "hint", "instead")}
    return {**told, **{key: text for key, text in parts.items() if text}}
