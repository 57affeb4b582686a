"""What each codec saves and what it costs: the same federation once per codec and seed; bytes, accuracy and loss side by side.

Example::

    python -m fedrelease.simulations.bench.codecs --study four-sites-none --seeds 0,1,2

Runs lie below ``--out``; run again, finished runs are read and interrupted ones go on.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from itertools import product
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from fedrelease.cache import cache_folder
from fedrelease.errors import FedreleaseError
from fedrelease.experiment import Experiment
from fedrelease.experiment_file import load_experiment
from fedrelease.server.store import Store
from fedrelease.simulations.bench.command import tell_failure, wide_console
from fedrelease.simulations.lending import Lender
from fedrelease.simulations.simulate import simulate

__all__ = ["WAYS", "Found", "experiment_of", "main", "measure"]

WAYS: Mapping[str, tuple[str, ...]] = {
    "float32": (),
    "float16": ("transport.codec=float16",),
    "int8": ("transport.codec=int8",),
    "int8-alone": ("transport.codec=int8", "transport.error_feedback=false"),
    "int4": ("transport.codec=int4",),
    "int4-alone": ("transport.codec=int4", "transport.error_feedback=false"),
    "top-k": ("transport.codec=top-k",),
    "top-k-alone": ("transport.codec=top-k", "transport.error_feedback=false"),
}
"""``alone`` is without error feedback: ``int8`` and ``int4`` then round at random."""
PLAIN = "float32"
STUDIES = ("default", "four-sites-eps1", "four-sites-eps8", "four-sites-none")


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of one run: bytes that a site sent in a round; its last release's accuracy and loss, means of the sites; loss if told."""

    bytes_up: float
    accuracy: float
    loss: float | None


def experiment_of(study: str, way: str, seed: int, overrides: Sequence[str] = ()) -> Experiment:
    """A built-in study with a codec and a seed."""
    text = (resources.files("fedrelease.simulations.studies") / f"{study}.toml").read_text(encoding="utf-8")
    return load_experiment(Path(f"{study}.toml"), [*overrides, f"federation.seed={seed}", *WAYS[way]], text=text)


def measure(experiment: Experiment, store: Path, *, cache: Path, lender: Lender) -> Found:
    """Run it, or what is left of it, and read what came of it."""
    simulate(
        experiment,
        store=store,
        cache=cache,
        workers=None,
        watch=lambda event: None,
        say=lambda line: None,
        lender=lender,
    )
    opened = Store.open(store)
    rounds = [release for release in opened.releases() if release.manifest.parents]
    answered = sum(len(release.manifest.federation.accepted) for release in rounds)
    sent = sum(entry.bytes_up or 0 for entry in opened.history())
    told = rounds[-1].manifest.metrics.mean
    return Found(bytes_up=sent / answered, accuracy=told["accuracy"], loss=told.get("loss"))


def _show(found: Mapping[str, Sequence[Found]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("codec", no_wrap=True)
    for column in ("bytes a site and round", "ratio", "accuracy", "lowest", "highest", "difference", "loss"):
        table.add_column(column, justify="right", no_wrap=True)
    plain = found.get(PLAIN)
    for way, runs in found.items():
        sent, accuracies = mean(run.bytes_up for run in runs), [run.accuracy for run in runs]
        losses = [run.loss for run in runs if run.loss is not None]
        table.add_row(
            way,
            f"{sent:,.0f}",
            f"{mean(run.bytes_up for run in plain) / sent:.2f}" if plain else "-",
            *(f"{number:.4f}" for number in (mean(accuracies), min(accuracies), max(accuracies))),
            f"{mean(accuracies) - mean(run.accuracy for run in plain):+.4f}" if plain else "-",
            f"{mean(losses):.4f}" if losses else "-",
        )
    console.print(table)


def _ways(text: str) -> list[str]:
    unknown = [name for name in text.split(",") if name not in WAYS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are {', '.join(WAYS)}")
    return text.split(",")


def _seeds(text: str) -> list[int]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers with commas, for example 0,1,2")
    return [int(part) for part in text.split(",")]


def main(typed: Sequence[str] | None = None) -> int:
    """Run what is missing, print; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fedrelease.simulations.bench.codecs",
        description="Measure what each codec of updates saves and costs.",
    )
    parser.add_argument("--study", choices=STUDIES, default="default", help="built-in experiment [default: default]")
    parser.add_argument("--codecs", type=_ways, default=",".join(WAYS), help="comma separated [default: all]")
    parser.add_argument("--seeds", type=_seeds, default="0,1,2", help="comma separated [default: 0,1,2]")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="KEY=VALUE of the experiment")
    parser.add_argument("--out", type=Path, default=Path("codecs-out"), help="folder of runs [default: codecs-out]")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(typed)
    found: dict[str, list[Found]] = {way: [] for way in given.codecs}
    try:
        with Lender(home=given.out / "engine", workers=None) as lender:
            for seed, way in product(given.seeds, given.codecs):
                experiment = experiment_of(given.study, way, seed, given.overrides)
                store = given.out / f"{given.study}-{way}-seed{seed}"
                found[way].append(measure(experiment, store, cache=cache_folder(), lender=lender))
                print(f"{way}, seed {seed}: {found[way][-1]}", file=sys.stderr, flush=True)
    except FedreleaseError as error:
        return tell_failure(error, as_json=given.json)
    if given.json:
        print(json.dumps({way: [asdict(run) for run in runs] for way, runs in found.items()}, indent=2))
    else:
        _show(found, wide_console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
