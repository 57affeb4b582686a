"""Rules against attacks: accuracy of each strategy with hostile sites, what it keeps of its own, and how well a backdoor takes.

Example::

    python -m fedrelease.simulations.bench.attacks                      # small images, two attacks, one seed: two minutes
    python -m fedrelease.simulations.bench.attacks --full               # all eight attacks, three seeds: nine times that
    python -m fedrelease.simulations.bench.attacks --rules fedavg,median --attacks sign-flip,backdoor --seeds 2
    python -m fedrelease.simulations.bench.attacks --task sms-spam      # texts, MiniLM with LoRA: longer

All federations of a seed have the same sites and rows, all of a table the same rounds. A rule bears an attack where it keeps 95 %
of its own accuracy without any, in the mean over seeds. Typed again, finished federations are read and not repeated.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fedrelease.errors import FedreleaseError
from fedrelease.experiment import Experiment, Partition
from fedrelease.files import write_durably
from fedrelease.simulations.bench.attack_runs import Ended, Grid, run_grid
from fedrelease.simulations.bench.attack_tables import document, markdown, show, summarise
from fedrelease.simulations.bench.attack_tasks import ATTACKS, QUICK, RULES, TASKS
from fedrelease.simulations.bench.command import tell_failure, wide_console
from fedrelease.simulations.bench.scaled import at_least_one
from fedrelease.wording import clock, duration

__all__ = ["main"]

FULL_SEEDS = 3


def _some(allowed: Sequence[str], typed: str) -> list[str]:
    chosen = typed.split(",")
    unknown = [name for name in chosen if name not in allowed]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(allowed)}")
    return [name for name in allowed if name in chosen]


def _arguments(typed: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fedrelease.simulations.bench.attacks",
        description="Measure what is left of each strategy's accuracy with hostile sites, and how well a backdoor takes. "
        "Type the same command again to go on after an interruption.",
        epilog="example: python -m fedrelease.simulations.bench.attacks --rules fedavg,median --attacks sign-flip",
    )
    parser.add_argument("--task", choices=sorted(TASKS), default="digits", help="what is learnt [default: digits]")
    parser.add_argument("--rules", type=lambda text: _some(RULES, text), default=RULES, help="[default: all]")
    parser.add_argument(
        "--attacks", type=lambda text: _some(ATTACKS, text), help=f"besides none [default: {','.join(QUICK)}]"
    )
    parser.add_argument("--seeds", type=at_least_one, help="how many, from --seed up [default: 1]")
    parser.add_argument("--full", action="store_true", help=f"all attacks, and {FULL_SEEDS} seeds")
    parser.add_argument("--share", type=float, default=0.2, help="of hostile sites [default: 0.2]")
    parser.add_argument("--sites", type=at_least_one, help="how many in all [default: the task's]")
    parser.add_argument("--alpha", type=float, help="deal labels unevenly, by a Dirichlet [default: evenly]")
    parser.add_argument("--rounds", type=at_least_one, help="of each federation [default: the task's]")
    parser.add_argument("--seed", type=int, default=7, help="of sites, rows and first weights [default: 7]")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print one JSON document")
    shown.add_argument("--markdown", action="store_true", help="print the tables for a page")
    parser.add_argument("--out", type=Path, help="folder of results [default: bench-out/attacks-TASK]")
    return parser.parse_args(typed)


def _grid(given: argparse.Namespace) -> Grid:
    kinds = given.attacks or (ATTACKS if given.full else QUICK)
    seeds = given.seeds or (FULL_SEEDS if given.full else 1)
    return Grid(
        experiment=_experiment(given),
        rules=tuple(given.rules),
        kinds=tuple(kind for kind in ATTACKS if kind == "none" or kind in kinds),
        seeds=tuple(range(given.seed, given.seed + seeds)),
        share=given.share,
    )


def _experiment(given: argparse.Namespace) -> Experiment:
    task = TASKS[given.task]
    sites = given.sites or task.data.partition.sites
    uneven = Partition(by="dirichlet", sites=sites, alpha=given.alpha) if given.alpha is not None else None
    return replace(
        task,
        data=replace(task.data, partition=uneven or Partition(by="iid", sites=sites)),
        phases=(replace(task.phases[0], rounds=given.rounds or task.phases[0].rounds),),
    )


def _folder(given: argparse.Namespace) -> Path:
    """A default of its own for each task and split, since cells of two tables do not go together."""
    uneven = "" if given.alpha is None else f"-alpha-{given.alpha:g}"
    return given.out or Path("bench-out") / f"attacks-{given.task}{uneven}"


def _tell(ended: Ended) -> None:
    """``run 2/30  scaling, median, seed 7  accuracy 0.866  4.1 s  about 1:55 left``."""
    cell = ended.cell
    took = "was done already" if ended.left is None else duration(cell.seconds)
    left = f"  about {clock(ended.left)} left" if ended.left else ""
    about = f"{cell.attack}, {cell.rule}, seed {cell.seed}  accuracy {cell.accuracy:.3f}"
    print(f"run {ended.number}/{ended.total}  {about}  {took}{left}", file=sys.stderr, flush=True)


def main(typed: Sequence[str] | None = None) -> int:
    """Measure, write, print; return the exit code."""
    given = _arguments(typed)
    folder = _folder(given)
    torch.set_num_threads(1)  # processors are the sites'
    try:
        cells = run_grid(_grid(given), folder=folder, watch=_tell)
    except FedreleaseError as error:
        return tell_failure(error, as_json=given.json)
    text = json.dumps(document(cells), indent=2)
    write_durably(folder / "attacks.json", f"{text}\n".encode())
    if given.json:
        print(text)
    elif given.markdown:
        print(markdown(summarise(cells)))
    else:
        show(summarise(cells), wide_console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
