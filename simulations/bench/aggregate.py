"""How quick the rules are on the server, and how much memory they take, beside adding up the same files.

Example::

    python -m fedrelease.simulations.bench.aggregate         # a thousand updates of a million numbers: 4 GB of disk
    python -m fedrelease.simulations.bench.aggregate --updates 100 --rules krum,bulyan

Updates lie in a spool as a round's do. Each rule runs in a process of its own on one thread, in turns with a plain sum.
``memory`` is what it added to the process; pages of the mapped files are the system's, and not counted.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

from fedrelease.errors import ExperimentError, FedreleaseError
from fedrelease.experiment import StrategyChoice
from fedrelease.messages import Answer
from fedrelease.server.spool import Screened, Spool
from fedrelease.simulations.bench.aggregate_one import METRICS, PLAIN, parent_of
from fedrelease.simulations.bench.command import tell_failure, wide_console
from fedrelease.simulations.bench.process import run_module
from fedrelease.simulations.bench.scaled import at_least_one
from fedrelease.strategies import make_strategy

__all__ = ["Cost", "main", "measure_aggregation"]

PARENT = "sha256:" + "0" * 64
RULES = ("fedavg", "fedadam", "norm-bound", "median", "geometric-median")
"""One that reads all once, one that remembers, one that measures first; one that sorts, one that compares all with all."""
TOGETHER = 8
"""Updates of one file, as many as a round writes at once at this size."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one rule: seconds and bytes, one number for each turn; ``ratio``: of its time to the plain sum's of the same turn."""

    seconds: list[float] = field(default_factory=list)
    grown_bytes: list[int] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)


def measure_aggregation(
    rules: Sequence[str], *, updates: int, parameters: int, repeats: int, folder: Path
) -> Mapping[str, Cost]:
    """Costs by rule, the plain sum's among them.

    Raises:
        FedreleaseError: a rule is unknown, or its run failed.
    """
    for rule in rules:
        _check(rule)
    folder.mkdir(parents=True, exist_ok=True)
    found = {rule: Cost() for rule in (PLAIN, *rules)}
    with TemporaryDirectory(dir=folder, prefix="work-") as work:
        spool, task = Path(work) / "spool", Path(work) / "task.json"
        _fill(spool, updates, parameters)
        for _ in range(repeats):
            for rule, cost in found.items():
                asked = {"rule": rule, "spool": str(spool), "parent": PARENT, "parameters": parameters}
                task.write_text(json.dumps(asked), encoding="utf-8")
                told = run_module("aggregate_one", task, threads=1).told
                cost.seconds.append(told["seconds"])
                cost.grown_bytes.append(told["grown_bytes"])
                cost.ratio.append(told["seconds"] / found[PLAIN].seconds[-1])
                print(f"{rule}: {told['seconds']:.1f} s", file=sys.stderr, flush=True)
    return found


def _check(rule: str) -> None:
    if make_strategy(StrategyChoice(name=rule)).companions:
        raise ExperimentError(
            f"{rule} is not measured here", value=rule, rule="the updates of this benchmark carry no companions"
        )


def _fill(folder: Path, updates: int, parameters: int) -> None:
    """A spool as a round leaves it; no two updates are alike."""
    spool, generator = Spool(folder, parent=PARENT), torch.Generator().manual_seed(0)
    for start in range(0, updates, TOGETHER):
        spool.accept(
            [_update(f"site-{n:06d}", parameters, generator) for n in range(start, min(updates, start + TOGETHER))]
        )


def _update(site: str, parameters: int, generator: torch.Generator) -> Screened:
    delta = {name: torch.randn(value.shape, generator=generator) for name, value in parent_of(parameters).items()}
    return Screened(site=site, delta=delta, answer=Answer(site=site, examples=10, metrics=METRICS))


def _document(found: Mapping[str, Cost], update_bytes: int, all_bytes: int) -> dict[str, dict[str, float]]:
    return {
        rule: {
            "seconds": median(cost.seconds),
            "gb_per_s": all_bytes / median(cost.seconds) / 1e9,
            "times_plain": median(cost.ratio),
            "memory_bytes": max(cost.grown_bytes),
            "memory_in_updates": max(cost.grown_bytes) / update_bytes,
        }
        for rule, cost in found.items()
    }


def _show(document: Mapping[str, Mapping[str, float]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("rule", no_wrap=True)
    for column in ("time", "GB a second", "of plain", "memory", "in updates"):
        table.add_column(column, justify="right", no_wrap=True)
    for rule, told in document.items():
        seconds, memory = f"{told['seconds']:.2f} s", f"{told['memory_bytes'] / 1e6:.0f} MB"
        numbers = [f"{told['gb_per_s']:.2f}", f"{told['times_plain']:.2f}", memory, f"{told['memory_in_updates']:.1f}"]
        table.add_row(rule, seconds, *numbers)
    console.print(table)


def main(typed: Sequence[str] | None = None) -> int:
    """Measure, print; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fedrelease.simulations.bench.aggregate",
        description="Measure how quick the rules are on the server, and how much memory they take.",
    )
    parser.add_argument("--updates", type=at_least_one, default=1000, help="of the round [default: 1000]")
    parser.add_argument("--parameters", type=at_least_one, default=1_000_000, help="numbers of one [default: 1000000]")
    parser.add_argument("--rules", default=",".join(RULES), help=f"which ones [default: {','.join(RULES)}]")
    parser.add_argument("--repeats", type=at_least_one, default=1, help="turns of each [default: 1]")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of the updates while it runs")
    given = parser.parse_args(typed)
    try:
        found = measure_aggregation(
            given.rules.split(","),
            updates=given.updates,
            parameters=given.parameters,
            repeats=given.repeats,
            folder=given.out,
        )
    except FedreleaseError as error:
        return tell_failure(error, as_json=given.json)
    size = sum(tensor.nbytes for tensor in parent_of(given.parameters).values())
    document = _document(found, size, size * given.updates)
    if given.json:
        print(json.dumps(document, indent=2))
    else:
        _show(document, wide_console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
