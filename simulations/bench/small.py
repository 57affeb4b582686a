"""Curves of many tiny clients: time for one client against the cohort's size, and time of a round against the population's.

Example::

    python -m fedrelease.simulations.bench.small                              # ours beside a bare loop
    python -m fedrelease.simulations.bench.small --ray --pfl-python pfl-env/bin/python
    python -m fedrelease.simulations.bench.small --populations 100,1000,10000,100000,1000000 --cohorts 100

A network of 784-64-10 weights; each client has 20 images of digits, in batches of 10, one pass a round. Sides take turns, each
run in a process of its own; a run's first round is not counted. pfl runs in an interpreter of its own.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from fedrelease.errors import FedreleaseError
from fedrelease.simulations.bench.command import tell_failure, wide_console
from fedrelease.simulations.bench.scaled import at_least_one
from fedrelease.simulations.bench.small_picture import small_png
from fedrelease.simulations.bench.small_points import PRIVATE, Point, measure_small
from fedrelease.simulations.ray_cluster import check_ray

__all__ = ["main"]


def _show(points: Sequence[Point], console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("side", "population", "clients a round", "a round", "a client", "min", "max", "memory", "accuracy"):
        table.add_column(column, justify="left" if column == "side" else "right", no_wrap=True)
    for point in points:
        spread = [f"{1000 * value / point.clients:.2f}" for value in (min(point.round_s), max(point.round_s))]
        table.add_row(
            point.side,
            str(point.population),
            str(point.clients),
            f"{1000 * median(point.round_s):.0f} ms",
            f"{point.client_ms:.2f} ms",
            *spread,
            f"{median(point.peak_bytes) / 1e9:.2f} GB",
            f"{median(point.accuracy):.3f}",
        )
    console.print(table)


def _numbers(text: str) -> list[int]:
    return [at_least_one(part) for part in text.split(",")]


def _arguments(typed: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fedrelease.simulations.bench.small",
        description="Measure rounds of many tiny clients: ours beside a bare loop, Flower on Ray and pfl.",
    )
    parser.add_argument("--cohorts", type=_numbers, default=[10, 30, 100, 300, 1000], help="clients of a round")
    parser.add_argument("--populations", type=_numbers, default=[1000], help="clients in all")
    parser.add_argument("--rounds", type=at_least_one, default=5, help="rounds that count [default: 5]")
    parser.add_argument("--repeats", type=at_least_one, default=3, help="runs of each side, in turns [default: 3]")
    parser.add_argument("--only-ours", action="store_true", help="no bare loop")
    parser.add_argument("--private", action="store_true", help="ours at epsilon 8 too, ledgers included")
    parser.add_argument("--ray", action="store_true", help="Flower on Ray too (needs the extra ray)")
    parser.add_argument("--pfl-python", type=Path, help="pfl too, with the interpreter that has it")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of small.json and small.png")
    return parser.parse_args(typed)


def main(typed: Sequence[str] | None = None) -> int:
    """Measure, write, print; return the exit code."""
    given = _arguments(typed)
    wanted = {"ours": True, PRIVATE: given.private, "bare": not given.only_ours}
    wanted |= {"pfl": given.pfl_python is not None, "ray": given.ray}
    try:
        if given.ray:
            check_ray("--ray")
        points = measure_small(
            [side for side, yes in wanted.items() if yes],
            cohorts=given.cohorts,
            populations=given.populations,
            rounds=given.rounds,
            repeats=given.repeats,
            folder=given.out,
            pfl_python=given.pfl_python,
        )
    except FedreleaseError as error:
        return tell_failure(error, as_json=given.json)
    text = json.dumps([point.to_json() for point in points], indent=2)
    (given.out / "small.json").write_text(f"{text}\n", encoding="utf-8")
    (given.out / "small.png").write_bytes(small_png(points))
    if given.json:
        print(text)
    else:
        _show(points, wide_console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
