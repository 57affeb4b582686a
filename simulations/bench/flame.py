"""Where a worker's time goes: one simulation with one worker, sampled, as a picture and as folded stacks.

Example::

    python -m fedrelease.simulations.bench.flame --rounds 1 --out bench-out

A usual simulation of the same experiment runs first: it warms the cache, and both must end in the same state.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from fedrelease.cache import cache_folder
from fedrelease.errors import FedreleaseError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import to_document
from fedrelease.files import Json
from fedrelease.simulations.bench.command import tell_failure, wide_console
from fedrelease.simulations.bench.flame_picture import flame_png
from fedrelease.simulations.bench.measure import open_place
from fedrelease.simulations.bench.owners import OWNERS, by_owner, largest, owner, short
from fedrelease.simulations.bench.process import run_module
from fedrelease.simulations.bench.runs import Place, run_ours
from fedrelease.simulations.bench.sampler import Stack, folded_text, stacks_from
from fedrelease.simulations.bench.scaled import EXPERIMENTS, at_least_one, scaled

__all__ = ["Flame", "main", "sample_worker"]

FUNCTIONS = 10


@dataclass(frozen=True, kw_only=True)
class Flame:
    """What was seen of one worker.

    Attributes:
        stacks: microseconds by stack. samples: how many they come from.
        equal: whether it ended in the state of the usual simulation, bit for bit.
    """

    experiment: Experiment
    sites: tuple[str, ...]
    stacks: Mapping[Stack, int]
    samples: int
    equal: bool

    @property
    def seconds(self) -> float:
        """Of wall time, in all tasks together."""
        return sum(self.stacks.values()) / 1e6

    @property
    def title(self) -> str:
        """What was run, and for how long its worker was busy."""
        private = self.experiment.privacy
        what = "no privacy" if private.unit == "none" else f"epsilon {private.epsilon:g}"
        scale = f"{len(self.sites)} sites, rounds: {self.experiment.rounds}, {what}"
        return f"one worker of one thread, {scale}: {self.seconds:.1f} s"


def sample_worker(experiment: Experiment, *, folder: Path, cache: Path, say: Callable[[str], None]) -> Flame:
    """Run the experiment twice, as usual and sampled, in stores below ``folder`` that are gone afterwards.

    Raises:
        EngineError: a run failed, and the text carries its last words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix="work-") as work:
        place = open_place(experiment, cache, Path(work), workers=1)
        say("a usual simulation, for the cache and its last state")
        usual = run_ours(place, "usual").state
        say("the same, sampled")
        samples, state, stacks = _run_sampled(place)
    return Flame(
        experiment=place.experiment,
        sites=tuple(place.prepared.sites),
        stacks=stacks,
        samples=samples,
        equal=state == usual,
    )


def _run_sampled(place: Place) -> tuple[int, str, dict[Stack, int]]:
    task, stacks = place.folder / "sampled.json", place.folder / "stacks.txt"
    settings: dict[str, Json] = {
        "experiment": to_document(place.experiment),
        "store": str(place.folder / "sampled"),
        "handover": str(place.folder / "handover"),
        "cache": str(place.cache),
        "stacks": str(stacks),
    }
    task.write_text(json.dumps(settings), encoding="utf-8")
    told = run_module("sampled", task, threads=1).told
    return told["samples"], told["state"], stacks_from(stacks.read_text(encoding="utf-8"))


def _document(flame: Flame) -> dict[str, Json]:
    return {
        "seconds": flame.seconds,
        "samples": flame.samples,
        "equal_states": flame.equal,
        "owners": by_owner(flame.stacks),
        "functions": [{**asdict(one), "owner": owner(one.function)} for one in largest(flame.stacks, FUNCTIONS)],
        "experiment": to_document(flame.experiment),
    }


def _show(flame: Flame, console: Console) -> None:
    console.print(f"{flame.title}, {flame.samples} samples\n")
    owners = [(told, by_owner(flame.stacks)[name]) for name, told in OWNERS.items()]
    console.print(_table("innermost function of", owners))
    functions = [(short(one.function), one.share) for one in largest(flame.stacks, FUNCTIONS)]
    console.print()
    console.print(_table("by its own time", functions))
    console.print(f"\nlast states of a usual run and of this one: {'equal' if flame.equal else 'NOT equal'}")


def _table(what: str, shares: Sequence[tuple[str, float]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(what, no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    for name, share in shares:
        table.add_row(name, f"{share:.1%}")
    return table


def _finish(flame: Flame, folder: Path, *, as_json: bool) -> int:
    """Write and print; 1 when another state came out, since then something else was sampled."""
    (folder / "flame.txt").write_text(folded_text(flame.stacks), encoding="utf-8")
    (folder / "flame.png").write_bytes(flame_png(flame.stacks, title=flame.title))
    if as_json:
        print(json.dumps(_document(flame), indent=2))
    else:
        _show(flame, wide_console())
        print(f"written: {folder / 'flame.png'}, and {folder / 'flame.txt'} for speedscope.app or flamegraph.pl")
    return 0 if flame.equal else 1


def _arguments(typed: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fedrelease.simulations.bench.flame",
        description="Sample the worker of one simulation, and draw where its time goes.",
        epilog="example: python -m fedrelease.simulations.bench.flame --privacy none --out bench-out",
    )
    parser.add_argument("--rounds", type=at_least_one, default=1, help="rounds [default: 1]")
    parser.add_argument("--limit", type=at_least_one, default=1000, help="rows of one site [default: 1000]")
    parser.add_argument(
        "--privacy",
        choices=tuple(EXPERIMENTS),
        default="keep",
        help="none: the built-in federation without it [default: keep]",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--out", type=Path, default=Path("bench-out"), help="folder of flame.png and flame.txt [default: bench-out]"
    )
    return parser.parse_args(typed)


def main(typed: Sequence[str] | None = None) -> int:
    """Sample, write, print; return the exit code."""
    given = _arguments(typed)
    try:
        flame = sample_worker(
            scaled(given.rounds, given.limit, given.privacy),
            folder=given.out,
            cache=cache_folder(),
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
        return _finish(flame, given.out, as_json=given.json)
    except FedreleaseError as error:
        return tell_failure(error, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
