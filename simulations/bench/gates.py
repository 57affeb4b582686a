"""Is the quality gate what it promises? How often it passes worse models, blocks equal ones, and what 20 rounds can lose.

Example::

    python -m fedrelease.simulations.bench.gates             # under a minute
    python -m fedrelease.simulations.bench.gates --seeds 50 --json

The exit code is 1 when a mark is missed.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from rich.console import Console
from rich.table import Table

from fedrelease.server.gates.statistics import n_needed
from fedrelease.simulations.bench import gates_calibration as calibration
from fedrelease.simulations.bench.command import wide_console
from fedrelease.simulations.bench.scaled import at_least_one

__all__ = ["calibrate", "main", "marks"]

Document: TypeAlias = dict[str, list[dict[str, Any]]]
DISCORDANCE = 0.05
ITEMS = (200, 1000, 4000)
DIFFERENCES = (0.0, -0.01, -0.02, -0.03)
WAYS = (("gate", 0.02), ("gate", 0.01), ("McNemar not significant", 0.02), ("not lower", 0.02))
SEEDS = 200
DRAWS = 4000
ANCHORED = "stable and anchor"
LINES = (
    ("gate", 20, ANCHORED),
    ("gate", 1, "stable and anchor, its alpha not divided"),
    ("gate", None, "stable only"),
    ("McNemar not significant", None, "stable only"),
    ("not lower", None, "stable only"),
)
"""Rule, among how many rounds the anchor's alpha is divided, and what that is called."""


def calibrate(seeds: int = SEEDS, items: Sequence[int] = ITEMS) -> Document:
    """Everything that is printed: chances, sequences of rounds, slices, items needed."""
    return {
        "chances": [_chance(rule, margin, n, true) for n in items for true in DIFFERENCES for rule, margin in WAYS],
        "rounds": list(_rounds(seeds)),
        "slices": [
            {"classes": classes, "true_points": 100 * true}
            | dict(calibration.slices_passed(difference=true, classes=classes, items=400, draws=DRAWS))
            for true in (0.0, -0.02)
            for classes in (2, 4, 8)
        ],
        "needed": [
            _needed(discordance, margin) for discordance in (0.02, 0.05, 0.1, 0.2) for margin in (0.01, 0.02, 0.05)
        ],
    }


def _named(rule: str, margin: float) -> str:
    return f"gate, margin {100 * margin:g}" if rule == "gate" else rule


def _chance(rule: str, margin: float, n: int, true: float) -> dict[str, Any]:
    found = calibration.chance_to_pass(rule, n=n, difference=true, discordance=DISCORDANCE, margin=margin)
    told = {"passed": found.passed, "failed": found.failed, "undecided": found.undecided}
    return {"items": n, "true_points": 100 * true, "rule": _named(rule, margin), **told}


def _rounds(seeds: int) -> Iterator[dict[str, Any]]:
    sequence = calibration.Sequence()
    for rule, looks, against in LINES:
        lost = 100 * calibration.lost_points(rule, anchor_looks=looks, sequence=sequence, seeds=seeds)
        named = f"{_named(rule, sequence.margin)}, {against}"
        yield {
            "rule": named,
            "mean_lost": float(lost.mean()),
            "p95_lost": float(np.quantile(lost, 0.95)),
            "most_lost": float(lost.max()),
            "over_two": float((lost > 2 + 1e-9).mean()),
        }


def _needed(discordance: float, margin: float) -> dict[str, Any]:
    """Items for 80 % power, and the power that the gate really has with them."""
    n = n_needed(discordance, margin) or 0  # the margins here are above 0, so that some number decides
    found = calibration.chance_to_pass("gate", n=n, difference=0.0, discordance=discordance, margin=margin)
    return {"discordance": discordance, "margin_points": 100 * margin, "items": n, "passed": found.passed}


def marks(document: Document) -> dict[str, bool]:
    """What the gate promises, and whether it holds."""
    chances, rounds = document["chances"], {row["rule"]: row for row in document["rounds"]}
    gate = [row for row in chances if row["rule"].startswith("gate")]
    small = [row for row in gate if row["items"] == 200 and row["true_points"] == -2]
    equal = [row for row in gate if row["true_points"] == 0]
    anchored = rounds[f"gate, margin 2, {ANCHORED}"]
    worse, same = ([row for row in document["slices"] if row["true_points"] == true] for true in (-2, 0))
    return {
        "200 items, 2 points worse: passes at most 5 %, with margin 1 and with margin 2": bool(small)
        and all(row["passed"] <= 0.05 for row in small),
        "an equal model is blocked (not merely undecided) at most once in 100 with margin 2, and once in 20 with margin 1": all(
            row["failed"] <= (0.01 if row["rule"].endswith("2") else 0.05) for row in equal
        ),
        "20 rounds at -0.5 points, with the anchor: at most 2 points lost on average and in 19 of 20 runs": (
            anchored["mean_lost"] <= 2 and anchored["p95_lost"] <= 2 + 1e-9
        ),
        "more slices never help a worse model": all(row["every class passes"] <= row["whole"] <= 0.07 for row in worse),
        "an equal model's classes fail at most once in 100": all(row["a class fails"] <= 0.01 for row in same),
    }


def _table(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(header.removesuffix(">"), justify="right" if header.endswith(">") else "left", no_wrap=True)
    return table


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _show(document: Document, console: Console) -> None:
    chances = _table("items>", "truth>", "rule", "passes>", "blocked>", "undecided>")
    for row in document["chances"]:
        numbers = (_share(row[name]) for name in ("passed", "failed", "undecided"))
        chances.add_row(str(row["items"]), f"{row['true_points']:+.0f}", row["rule"], *numbers)
    rounds = _table("20 rounds at -0.5 points", "lost on average>", "19 of 20 lose at most>", "most>", "over 2 points>")
    for row in document["rounds"]:
        lost = (f"{row[name]:.1f}" for name in ("mean_lost", "p95_lost", "most_lost"))
        rounds.add_row(row["rule"], *lost, _share(row["over_two"]))
    slices = _table("truth>", "classes>", "whole passes>", "and no class fails>", "and every class passes>")
    for row in document["slices"]:
        numbers = (_share(row[name]) for name in ("whole", "no class fails", "every class passes"))
        slices.add_row(f"{row['true_points']:+.0f}", str(row["classes"]), *numbers)
    needed = _table("discordant>", "margin>", "items for 80 %>", "equal models that pass>")
    for row in document["needed"]:
        items, margin = f"{row['items']:,}", f"{row['margin_points']:.0f}"
        needed.add_row(_share(row["discordance"]), margin, items, _share(row["passed"]))
    for table in (chances, rounds, slices, needed):
        console.print(table)
        console.print()
    for mark, holds in marks(document).items():
        console.print(f"{'holds ' if holds else 'MISSED'}  {mark}")


def main(typed: Sequence[str] | None = None) -> int:
    """Compute and print; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fedrelease.simulations.bench.gates",
        description="How often the quality gate passes models of which the truth is known.",
        epilog="example: python -m fedrelease.simulations.bench.gates --seeds 50",
    )
    parser.add_argument("--seeds", type=at_least_one, default=SEEDS, help=f"sequences of rounds [default: {SEEDS}]")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(typed)
    document = calibrate(given.seeds)
    if given.json:
        print(json.dumps({**document, "marks": marks(document)}, indent=2))
    else:
        _show(document, wide_console())
    return 0 if all(marks(document).values()) else 1


if __name__ == "__main__":
    sys.exit(main())
