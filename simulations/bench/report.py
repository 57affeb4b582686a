"""What a benchmark found, for a program and for a reader.

Example::

    (folder / "bench.json").write_text(json.dumps(document(bench)))
    show(bench, Console())
"""

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from statistics import median

from rich.console import Console
from rich.table import Table

from fedrelease.experiment_document import experiment_digest, to_document
from fedrelease.files import Json
from fedrelease.simulations.bench.measure import Bench, Run
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
        "pairs": [
            {"overhead": pair.overhead, "ours": _run(pair.ours), "bare": _run(pair.bare)} for pair in bench.pairs
        ],
        "machine": _machine(),
        "experiment_digest": experiment_digest(bench.experiment),
        "experiment": to_document(bench.experiment),
    }


def _run(run: Run) -> dict[str, Json]:
    return asdict(run)


def _summary(bench: Bench) -> dict[str, Json]:
    ours, bare = [pair.ours for pair in bench.pairs], [pair.bare for pair in bench.pairs]
    return {
        "overhead": {"min": min(bench.overhead), "median": median(bench.overhead), "max": max(bench.overhead)},
        "equal_states": len(bench.states) == 1,
        "states": list(bench.states),
        "seconds": {"ours": median(run.seconds for run in ours), "bare": median(run.seconds for run in bare)},
        "steps": {"ours": _steps(ours), "bare": _steps(bare)},
        "start_s": median(run.start_s for run in ours),
        "base_s": median(run.base_s for run in ours),
        "examples_per_s": {
            "ours": bench.examples / median(run.seconds for run in ours),
            "bare": bench.examples / median(run.seconds for run in bare),
        },
        "peak_bytes": {"ours": max(run.peak_bytes for run in ours), "bare": max(run.peak_bytes for run in bare)},
        "idle": median(_idle(run, bench.workers) for run in bare),
    }


def _steps(runs: Iterable[Run]) -> dict[str, Json]:
    found = list(runs)
    return {step: median(run.steps.get(step, 0.0) for run in found) for step in STEPS}


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
    low, high = min(bench.overhead), max(bench.overhead)
    console.print(
        f"overhead {median(bench.overhead):.1%} of wall time, {low:.1%} to {high:.1%} over {_count(bench.pairs, 'pair')}:"
        " what is not forward, backward or optimizer"
    )
    console.print()
    console.print(_table(bench))
    console.print()
    for line in _remarks(bench):
        console.print(line)


def _count(things: tuple[object, ...], noun: str) -> str:
    return f"{len(things)} {noun}" if len(things) == 1 else f"{len(things)} {noun}s"


def _table(bench: Bench) -> Table:
    ours, bare = [pair.ours for pair in bench.pairs], [pair.bare for pair in bench.pairs]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    made.add_column("median", no_wrap=True)
    for side in ("ours", "bare"):
        made.add_column(side, justify="right", no_wrap=True)
    ours_steps, bare_steps = _steps(ours), _steps(bare)
    rows = [(step, ours_steps[step], bare_steps[step]) for step in STEPS]
    rows.append(("all rounds", median(run.seconds for run in ours), median(run.seconds for run in bare)))
    for name, first, second in rows:
        made.add_row(name, f"{first:.2f} s", f"{second:.2f} s")
    rates = [bench.examples / median(run.seconds for run in runs) for runs in (ours, bare)]
    made.add_row("examples a second", *(f"{rate:.1f}" for rate in rates))
    made.add_row("peak memory", *(amount(max(run.peak_bytes for run in runs)) for runs in (ours, bare)))
    return made


def _remarks(bench: Bench) -> list[str]:
    ours = [pair.ours for pair in bench.pairs]
    idle = median(_idle(pair.bare, bench.workers) for pair in bench.pairs)
    same = len(bench.states) == 1
    states = f"equal, sha256:{bench.states[0]}" if same else f"DIFFERENT, {' and '.join(bench.states)}"
    return [
        f"last states of all runs: {states}",
        f"{_count(bench.sites, 'site')}, {bench.experiment.rounds} rounds, {bench.workers} worker processes of one thread each,"
        f" {bench.examples} examples trained on",
        f"before the first round: start-up {median(run.start_s for run in ours):.1f} s, the base's own release"
        f" {median(run.base_s for run in ours):.1f} s",
        f"of the twin's worker time {idle:.1%} is waiting for the last site of a step: neither side can win that back",
    ]
