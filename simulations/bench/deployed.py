"""What a deployed round costs beside the sites' own work: real processes over TLS on this machine, read from their logs.

Example::

    python -m fedrelease.simulations.bench.deployed                     # two sites with little to do; a minute
    python -m fedrelease.simulations.bench.deployed --folder demo-deploy   # one that ran already

A round's own work is the slowest site's training plus the slowest site's look at its hold-out. All sites share this machine,
and train at once, so that their seconds are longer than those of a site alone. The rest is messages, waiting, and the server.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from fedrelease.errors import ExperimentError, FedreleaseError
from fedrelease.simulations.bench.command import tell_failure
from fedrelease.simulations.deployed import deploy

__all__ = ["RoundCost", "main", "round_costs"]

WORK = ("train", "evaluate")
SITES = 2
LITTLE = ("data.limit_per_site=100", "phase.1.rounds=4")
"""Little work, so that what is measured is the rest: sites that compute at once on few cores slow each other's messages down."""


@dataclass(frozen=True, kw_only=True)
class RoundCost:
    """Seconds of one round: all of it, and what the slowest site did of each kind."""

    version: str
    round_s: float
    train_s: float
    evaluate_s: float

    @property
    def overhead_s(self) -> float:
        """What is left of the round."""
        return self.round_s - self.train_s - self.evaluate_s


def round_costs(folder: Path) -> tuple[RoundCost, ...]:
    """Every round of a deployment that ``fedrelease demo deploy`` made in ``folder``; the base is no round.

    Raises:
        ExperimentError: there is none.
    """
    events = folder / "server" / "log" / "events.log"
    if not events.exists():
        raise ExperimentError("no deployment ran here", value=str(folder), hint="fedrelease demo deploy --folder DIR")
    slowest = _slowest(folder)
    found, number = [], 0
    for line in _lines(events):
        if line["event"] == "RoundStarted":
            number = int(str(line["round"]))
        elif line["event"] == "Released" and number:
            train, evaluate = (slowest[number, kind] for kind in WORK)
            seconds = float(str(line["seconds"]))
            found.append(RoundCost(version=str(line["version"]), round_s=seconds, train_s=train, evaluate_s=evaluate))
    return tuple(found)


def _slowest(folder: Path) -> Mapping[tuple[int, str], float]:
    """Of each round and kind of work, the most seconds that a site told."""
    found: dict[tuple[int, str], float] = defaultdict(float)
    for log in folder.glob("*/log/site.log"):
        for line in _lines(log):
            if line["event"] == "answered" and line.get("kind") in WORK:
                place = int(str(line["round"])), str(line["kind"])
                found[place] = max(found[place], float(str(line["seconds"])))
    return found


def _lines(path: Path) -> Iterator[Mapping[str, object]]:
    for line in path.read_text(encoding="ascii").splitlines():
        yield json.loads(line)


def _say(costs: Sequence[RoundCost]) -> None:
    print("version  round   training  looking  the rest")
    for one in costs:
        print(
            f"{one.version:7}  {one.round_s:4.1f} s  {one.train_s:6.1f} s  {one.evaluate_s:5.1f} s  {one.overhead_s:6.1f} s"
        )
    print(f"the rest, median: {median(one.overhead_s for one in costs):.1f} s a round")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; its exit code."""
    parser = argparse.ArgumentParser(prog="bench.deployed", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="a deployment that ran already")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    try:
        with TemporaryDirectory() as temporary:
            folder = options.folder or Path(temporary) / "deployment"
            if options.folder is None:
                deploy(
                    folder, overrides=LITTLE, compare=False, most=SITES, say=lambda line: print(line, file=sys.stderr)
                )
            costs = round_costs(folder)
    except FedreleaseError as error:
        return tell_failure(error, as_json=options.json)
    if options.json:
        print(json.dumps([{**asdict(one), "overhead_s": one.overhead_s} for one in costs], indent=2))
    else:
        _say(costs)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
