"""What the cells of an attack table come to: means and ranges over seeds, what each rule keeps, and tables of them.

Example::

    found = summarise(cells)
    found["median", "sign-flip"].kept            # Spread(mean=0.99, low=0.98, high=1.01): shares of its own clean accuracy
    show(found, wide_console())
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean

from rich.console import Console
from rich.table import Table

from fedrelease.files import Json
from fedrelease.simulations.bench.attack_runs import Cell
from fedrelease.simulations.bench.attack_tasks import ATTACKS, QUICK

__all__ = ["ENOUGH", "Spread", "Under", "document", "markdown", "show", "summarise"]

ENOUGH = 0.95
"""The share of its own clean accuracy that a rule keeps under an attack that it bears, in the mean over seeds."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Over seeds."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Under:
    """A rule under an attack, over its seeds.

    Attributes:
        kept: accuracy as a share of the rule's own without an attack, seed by seed; ``None`` without such a run.
        backdoor: see :class:`Cell`; beside that of no attack it says what the backdoor did.
    """

    seeds: tuple[int, ...]
    accuracy: Spread
    kept: Spread | None
    backdoor: Spread

    @property
    def fails(self) -> bool:
        """Whether it keeps too little."""
        return self.kept is not None and self.kept.mean < ENOUGH


Found = Mapping[tuple[str, str], Under]
"""By rule and attack, in the order of the cells."""


def summarise(cells: Sequence[Cell]) -> Found:
    """Cells by rule and attack, put together over seeds."""
    clean = {(cell.rule, cell.seed): cell.accuracy for cell in cells if cell.attack == "none"}
    places = dict.fromkeys((cell.rule, cell.attack) for cell in cells)
    return {place: _under([cell for cell in cells if (cell.rule, cell.attack) == place], clean) for place in places}


def _under(cells: Sequence[Cell], clean: Mapping[tuple[str, int], float]) -> Under:
    kept = [cell.accuracy / before for cell in cells if (before := clean.get((cell.rule, cell.seed)))]
    return Under(
        seeds=tuple(cell.seed for cell in cells),
        accuracy=_spread([cell.accuracy for cell in cells]),
        kept=_spread(kept) if len(kept) == len(cells) else None,
        backdoor=_spread([cell.backdoor for cell in cells]),
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean=mean(values), low=min(values), high=max(values))


def show(found: Found, console: Console) -> None:
    """Tables of accuracy, of what is kept, and of the backdoor where there is one; ranges where there are several seeds."""
    for title, header, rows in _tables(found):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in header:
            table.add_column(column, justify="left" if column == "rule" else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(title, table, "", sep="\n")
    console.print(f"! = below {ENOUGH:.0%} of the rule's own accuracy without an attack")


def markdown(found: Found) -> str:
    """The same tables for a page."""
    parts = []
    for title, header, rows in _tables(found):
        lines = [header, ["---"] * len(header), *([f"`{row[0]}`", *row[1:]] for row in rows)]
        parts.append("\n".join([f"{title}:", "", *(f"| {' | '.join(line)} |" for line in lines)]))
    return "\n\n".join(parts)


def _tables(found: Found) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, header and rows of each."""
    kinds = [kind for kind in ATTACKS if any(kind == attack for _, attack in found)]
    hostile, count = [kind for kind in kinds if kind != "none"], max(len(one.seeds) for one in found.values())
    over = f", mean over {count} seeds and range" if count > 1 else ""
    tables = [_table(found, f"accuracy{over}", kinds, _accuracy)]
    if hostile and "none" in kinds:
        tables.append(_table(found, f"share of clean accuracy kept{over}", hostile, _kept))
    if "backdoor" in kinds:
        shown = [kind for kind in kinds if kind in ("none", "backdoor")]
        tables.append(_table(found, f"rows with the trigger that get the target's label{over}", shown, _backdoor))
    return tables


def _table(
    found: Found, title: str, kinds: Sequence[str], cell: Callable[[Under], str]
) -> tuple[str, list[str], list[list[str]]]:
    rules = dict.fromkeys(rule for rule, _ in found)
    rows = [[rule, *(cell(found[rule, kind]) if (rule, kind) in found else "-" for kind in kinds)] for rule in rules]
    return title, ["rule", *kinds], rows


def _accuracy(one: Under) -> str:
    return f"{_ranged(one, one.accuracy)}{'!' if one.fails else ''}"


def _kept(one: Under) -> str:
    return "-" if one.kept is None else f"{_ranged(one, one.kept, 2)}{'!' if one.fails else ''}"


def _backdoor(one: Under) -> str:
    return _ranged(one, one.backdoor)


def _ranged(one: Under, spread: Spread, digits: int = 3) -> str:
    """``0.866``, or with several seeds ``0.866 (0.85-0.88)``."""
    around = f" ({spread.low:.2f}-{spread.high:.2f})" if len(one.seeds) > 1 else ""
    return f"{spread.mean:.{digits}f}{around}"


def document(cells: Sequence[Cell]) -> dict[str, Json]:
    """For ``--json``: all cells; means and ranges; and whether each rule bears what averaging does not."""
    found = summarise(cells)
    told: list[Json] = [
        {"rule": rule, "attack": attack, **asdict(one), "seeds": list(one.seeds)}
        for (rule, attack), one in found.items()
    ]
    keeps: dict[str, Json] = {
        rule: {attack: not found[rule, attack].fails for attack in QUICK if (rule, attack) in found}
        for rule in dict.fromkeys(rule for rule, _ in found)
    }
    return {"points": [cell.to_json() for cell in cells], "table": told, "keeps": keeps}
