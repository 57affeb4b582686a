"""What privacy costs when every weight of a text model is trained: time and memory of a step, four ways.

Example::

    python -m fedrelease.simulations.bench.full --repeats 3

Each turn measures every way once, each in a process of its own with one thread, so that what else the machine does falls on all
alike and no way sees the memory of another. A step is forward, backward, clipping, noise and AdamW; time is processor time.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from fedrelease.cache import cache_folder
from fedrelease.catalog import CATALOG
from fedrelease.errors import FedreleaseError
from fedrelease.fetch import fetch
from fedrelease.files import Json
from fedrelease.models.bases import open_base
from fedrelease.simulations.bench.command import tell_failure, wide_console
from fedrelease.simulations.bench.process import run_module
from fedrelease.simulations.bench.scaled import at_least_one

__all__ = ["WAYS", "Cost", "main", "measure_full"]

WAYS = ("plain", "book-keeping", "opacus-ghost", "opacus-hooks")
PLAIN = WAYS[0]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one way in one turn: seconds of a step (the median), and bytes that the steps added to the process at most."""

    step_s: float
    grown_bytes: float


def measure_full(base: Path, *, rows: int, tokens: int, steps: int, repeats: int) -> Mapping[str, list[Cost]]:
    """Costs by way, one of each turn.

    Args:
        base: folder of the encoder.
        rows: of a batch. tokens: of every row. steps: that are timed in one process, after one that is not.
    """
    found: dict[str, list[Cost]] = {way: [] for way in WAYS}
    with TemporaryDirectory() as folder:
        task = Path(folder) / "task.json"
        for _ in range(repeats):
            for way in WAYS:
                asked = {"base": str(base), "way": way, "rows": rows, "tokens": tokens, "steps": steps}
                task.write_text(json.dumps(asked), encoding="utf-8")
                told = run_module("full_step", task, threads=1).told
                grown = told["peak_bytes"] - told["before_bytes"]
                found[way].append(Cost(step_s=median(told["step_s"]), grown_bytes=grown))
    return found


def _ratios(found: Mapping[str, list[Cost]], way: str, what: str) -> list[float]:
    """How many times as much as plain training, turn by turn."""
    return [getattr(own, what) / getattr(plain, what) for own, plain in zip(found[way], found[PLAIN], strict=True)]


def _document(found: Mapping[str, list[Cost]]) -> dict[str, Json]:
    def spread(way: str, what: str) -> Json:
        ratios = _ratios(found, way, what)
        return {"min": min(ratios), "median": median(ratios), "max": max(ratios)}

    return {
        way: {
            "step_s": median(cost.step_s for cost in costs),
            "memory_mb": median(cost.grown_bytes for cost in costs) / 1e6,
            "time": spread(way, "step_s"),
            "memory": spread(way, "grown_bytes"),
        }
        for way, costs in found.items()
    }


def _show(found: Mapping[str, list[Cost]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("every weight", no_wrap=True)
    for column in ("a step", "time", "min", "max", "memory", "of plain", "min", "max"):
        table.add_column(column, justify="right", no_wrap=True)
    for way, costs in found.items():
        cells = [f"{median(cost.step_s for cost in costs):.2f} s", *_cells(_ratios(found, way, "step_s"))]
        cells += [f"{median(cost.grown_bytes for cost in costs) / 1e6:.0f} MB"]
        table.add_row(way, *cells, *_cells(_ratios(found, way, "grown_bytes")))
    console.print(table)


def _cells(ratios: Sequence[float]) -> list[str]:
    return [f"{number:.2f}" for number in (median(ratios), min(ratios), max(ratios))]


def main(typed: Sequence[str] | None = None) -> int:
    """Measure, print; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fedrelease.simulations.bench.full",
        description="Measure what private training of every weight costs.",
    )
    parser.add_argument("--base", default="minilm", help="an alias, a folder or a hub id [default: minilm]")
    parser.add_argument("--rows", type=at_least_one, default=32, help="rows of a batch [default: 32]")
    parser.add_argument("--tokens", type=at_least_one, default=40, help="tokens of a row [default: 40]")
    parser.add_argument("--steps", type=at_least_one, default=3, help="steps that are timed in a turn [default: 3]")
    parser.add_argument("--repeats", type=at_least_one, default=3, help="turns of every way [default: 3]")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(typed)
    try:
        if given.base in CATALOG:
            fetch(given.base, cache=cache_folder())
        folder = open_base(given.base, cache=cache_folder()).folder
        found = measure_full(folder, rows=given.rows, tokens=given.tokens, steps=given.steps, repeats=given.repeats)
    except FedreleaseError as error:
        return tell_failure(error, as_json=given.json)
    if given.json:
        print(json.dumps(_document(found), indent=2))
    else:
        _show(found, wide_console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
