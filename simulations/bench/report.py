"""What a benchmark found, for a program and for a reader.

Example::

    (folder / "bench.json").write_text(json.dumps(document(bench)))
    show(bench, Console())
"""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, median

from rich.console import Console
from rich.table import Table

from fedrelease.experiment_document import experiment_digest, to_document
from fedrelease.files import Json
from fedrelease.simulations.bench.measure import Bench, Pair
from fedrelease.simulations.bench.runs import Run
from fedrelease.simulations.bench.timeline import STEPS
from fedrelease.wording import amount

__all__ = ["document", "show"]


def document(bench: Bench) -> dict[str, Json]:
    """Every number as JSON; ``summary`` holds those that matter."""
    return {
        "summary": _summary(bench),
        "workers": bench.workers,
        "sites": list(bench.sites),
        "rounds": bench.experiment.rounds,
        "examples": bench.examples,
        "pairs": [_pair(pair) for pair in bench.pairs],
        "machine": _machine(),
        "experiment_digest": experiment_digest(bench.experiment),
        "experiment": to_document(bench.experiment),
    }


def _pair(pair: Pair) -> dict[str, Json]:
    """What was not measured is left out."""
    found: dict[str, Json] = {
        "overhead": pair.overhead,
        "ratio": pair.ratio,
        "ours": asdict(pair.ours),
        "bare": asdict(pair.bare) if pair.bare else None,
        "glue": asdict(pair.glue) if pair.glue else None,
        "accuracy": pair.accuracy or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _summary(bench: Bench) -> dict[str, Json]:
    sides, bare = bench.sides, bench.sides.get("bare")
    found: dict[str, Json] = {
        "overhead": _spread(bench.overhead),
        "ratio": _spread(bench.ratio),
        "equal_states": len(bench.states) == 1,
        "states": list(bench.states),
        "seconds": {side: _median(runs, _seconds) for side, runs in sides.items()},
        "cpu_s": {side: _median(runs, lambda run: run.cpu_s) for side, runs in sides.items()},
        "steps": {side: _steps(runs) for side, runs in sides.items()},
        "start_s": _median(sides["ours"], lambda run: run.start_s),
        "base_s": _median(sides["ours"], lambda run: run.base_s),
        "examples_per_s": {side: _rate(bench, runs) for side, runs in sides.items()},
        "peak_bytes": {side: _peak(runs) for side, runs in sides.items()},
        "accuracy": {side: _mean(bench, side) for side in ("ours", "glue")} if "glue" in sides else None,
        "idle": median(_idle(run, bench.workers) for run in bare) if bare else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _spread(shares: Sequence[float]) -> dict[str, Json] | None:
    return {"min": min(shares), "median": median(shares), "max": max(shares)} if shares else None


def _median(runs: Sequence[Run], number: Callable[[Run], float]) -> float:
    return median(number(run) for run in runs)


def _seconds(run: Run) -> float:
    return run.seconds


def _steps(runs: Sequence[Run]) -> dict[str, Json]:
    return {step: median(run.steps.get(step, 0.0) for run in runs) for step in STEPS}


def _rate(bench: Bench, runs: Sequence[Run]) -> float:
    """Rows trained on in a second of all rounds: counted where a run counted them, expected elsewhere."""
    return _median(runs, lambda run: (run.examples or bench.examples) / run.seconds)


def _peak(runs: Sequence[Run]) -> int:
    return max(run.peak_bytes for run in runs)


def _mean(bench: Bench, side: str) -> float:
    """The mean over sites of a side's last state, median over pairs."""
    return median(fmean(pair.accuracy[side].values()) for pair in bench.pairs)


def _idle(run: Run, workers: int) -> float:
    """The share of the workers' time in which a worker had no site left and waited for another."""
    return 1 - (run.busy_s or 0.0) / (workers * run.seconds)


def _machine() -> Mapping[str, Json]:
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def show(bench: Bench, console: Console) -> None:
    """Print what a reader wants to know, overhead first."""
    for line in _headlines(bench):
        console.print(line)
    console.print()
    console.print(_table(bench))
    console.print()
    for line in _remarks(bench):
        console.print(line)


def _headlines(bench: Bench) -> list[str]:
    over, lines = f"over {_count(bench.pairs, 'pair')}", []
    if bench.overhead:
        low, middle, high = min(bench.overhead), median(bench.overhead), max(bench.overhead)
        lines.append(
            f"overhead {middle:.1%} of wall time, {low:.1%} to {high:.1%} {over}: what is not forward, backward or optimizer"
        )
    if bench.ratio:
        low, middle, high = min(bench.ratio), median(bench.ratio), max(bench.ratio)
        lines.append(f"the usual glue takes {middle:.2f} times as long as ours, {low:.2f} to {high:.2f} {over}")
    return lines


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}" if len(things) == 1 else f"{len(things)} {noun}s"


def _table(bench: Bench) -> Table:
    sides = bench.sides
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    made.add_column("median", no_wrap=True)
    for side in sides:
        made.add_column(side, justify="right", no_wrap=True)
    for step in STEPS:
        made.add_row(step, *(f"{_steps(runs)[step]:.2f} s" for runs in sides.values()))
    made.add_row("all rounds", *(f"{_median(runs, _seconds):.2f} s" for runs in sides.values()))
    made.add_row("processor, whole run", *(f"{_median(runs, lambda run: run.cpu_s):.1f} s" for runs in sides.values()))
    made.add_row("examples a second", *(f"{_rate(bench, runs):.1f}" for runs in sides.values()))
    made.add_row("peak memory", *(amount(_peak(runs)) for runs in sides.values()))
    if "glue" in sides:
        means = {side: f"{_mean(bench, side):.4f}" for side in ("ours", "glue")}
        made.add_row("accuracy, mean of sites", *(means.get(side, "as ours") for side in sides))
    return made


def _remarks(bench: Bench) -> list[str]:
    sides = bench.sides
    same = len(bench.states) == 1
    states = f"equal, sha256:{bench.states[0]}" if same else f"DIFFERENT, {' and '.join(bench.states)}"
    who = " and ".join(side for side in sides if side != "glue") if "glue" in sides else "all runs"
    lines = [
        f"last states of {who}: {states}",
        f"{_count(bench.sites, 'site')}, {bench.experiment.rounds} rounds, {bench.workers} worker processes of one thread each,"
        f" {bench.examples} examples trained on",
        f"before the first round: start-up {_median(sides['ours'], lambda run: run.start_s):.1f} s, the base's own release"
        f" {_median(sides['ours'], lambda run: run.base_s):.1f} s",
    ]
    if "bare" in sides:
        idle = _median(sides["bare"], lambda run: _idle(run, bench.workers))
        lines.append(
            f"of the twin's worker time {idle:.1%} is waiting for the last site of a step: neither side can win that back"
        )
    if "glue" in sides:
        lines.append(
            f"before the glue's first round: Ray's start {_median(sides['glue'], lambda run: run.start_s):.1f} s"
        )
    return lines
