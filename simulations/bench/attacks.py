"""Rules against attacks: accuracy of each strategy with hostile sites, and how well a backdoor takes.

Example::

    python -m fedrelease.simulations.bench.attacks                                  # small images, a few minutes
    python -m fedrelease.simulations.bench.attacks --rules fedavg,median --attacks sign-flip,backdoor
    python -m fedrelease.simulations.bench.attacks --task sms-spam                  # texts, MiniLM with LoRA: much longer

Every federation of a table has the same sites, seed and rounds. A rule passes an attack where it keeps 95 % of its own accuracy
without any.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from fedrelease.errors import FedreleaseError
from fedrelease.experiment import Experiment, Partition
from fedrelease.files import Json
from fedrelease.simulations.bench.attack_runs import ATTACKS, RULES, TASKS, Point, kept, run_attacks
from fedrelease.simulations.bench.command import tell_failure, wide_console
from fedrelease.simulations.bench.scaled import at_least_one

__all__ = ["main"]

ENOUGH = 0.95
BROKEN_BY = ("scaling", "sign-flip")
"""Attacks that plain averaging does not survive."""


def _show(points: Sequence[Point], console: Console) -> None:
    kinds = [kind for kind in ATTACKS if any(point.attack == kind for point in points)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("rule", *kinds, "backdoor took"):
        table.add_column(column, justify="left" if column == "rule" else "right", no_wrap=True)
    for rule in dict.fromkeys(point.rule for point in points):
        found = {point.attack: point for point in points if point.rule == rule}
        took = f"{found['backdoor'].backdoor:.3f}" if "backdoor" in found else "-"
        table.add_row(rule, *(f"{found[kind].accuracy:.3f}{_mark(points, rule, kind)}" for kind in kinds), took)
    console.print(table)
    console.print(f"! = below {ENOUGH:.0%} of the rule's own accuracy without an attack")


def _mark(points: Sequence[Point], rule: str, kind: str) -> str:
    return "!" if kept(points, rule, kind) < ENOUGH else " "


def _document(points: Sequence[Point]) -> dict[str, Json]:
    rules = list(dict.fromkeys(point.rule for point in points))
    kinds = {point.attack for point in points}
    return {
        "points": [point.to_json() for point in points],
        "keeps": {
            rule: {kind: kept(points, rule, kind) >= ENOUGH for kind in BROKEN_BY if kind in kinds} for rule in rules
        },
    }


def _some(allowed: Sequence[str], typed: str) -> list[str]:
    chosen = typed.split(",")
    unknown = [name for name in chosen if name not in allowed]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(allowed)}")
    return chosen


def _arguments(typed: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fedrelease.simulations.bench.attacks",
        description="Measure what is left of each strategy's accuracy with hostile sites, and how well a backdoor takes.",
        epilog="example: python -m fedrelease.simulations.bench.attacks --rules fedavg,median --attacks sign-flip",
    )
    parser.add_argument("--task", choices=sorted(TASKS), default="digits", help="what is learnt [default: digits]")
    parser.add_argument("--rules", type=lambda text: _some(RULES, text), default=list(RULES), help="[default: all]")
    parser.add_argument(
        "--attacks", type=lambda text: _some(ATTACKS, text), default=list(ATTACKS), help="besides none [default: all]"
    )
    parser.add_argument("--share", type=float, default=0.2, help="of hostile sites [default: 0.2]")
    parser.add_argument("--sites", type=at_least_one, help="how many in all [default: the task's]")
    parser.add_argument("--alpha", type=float, help="deal labels unevenly, by a Dirichlet [default: evenly]")
    parser.add_argument("--rounds", type=at_least_one, help="of each federation [default: the task's]")
    parser.add_argument("--seed", type=int, default=7, help="of sites, rows and first weights [default: 7]")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of attacks.json")
    return parser.parse_args(typed)


def _experiment(given: argparse.Namespace) -> Experiment:
    task = TASKS[given.task]
    sites = given.sites or task.data.partition.sites
    uneven = Partition(by="dirichlet", sites=sites, alpha=given.alpha) if given.alpha is not None else None
    return replace(
        task,
        federation=replace(task.federation, seed=given.seed),
        data=replace(task.data, partition=uneven or Partition(by="iid", sites=sites)),
        phases=(replace(task.phases[0], rounds=given.rounds or task.phases[0].rounds),),
    )


def main(typed: Sequence[str] | None = None) -> int:
    """Measure, write, print; return the exit code."""
    given = _arguments(typed)
    kinds = [kind for kind in ATTACKS if kind == "none" or kind in given.attacks]
    torch.set_num_threads(1)  # processors are the sites'
    try:
        points = run_attacks(
            _experiment(given),
            rules=given.rules,
            kinds=kinds,
            share=given.share,
            folder=given.out,
            tell=lambda text: print(text, file=sys.stderr, flush=True),
        )
    except FedreleaseError as error:
        return tell_failure(error, as_json=given.json)
    text = json.dumps(_document(points), indent=2)
    (given.out / "attacks.json").write_text(f"{text}\n", encoding="utf-8")
    if given.json:
        print(text)
    else:
        _show(points, wide_console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
