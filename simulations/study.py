"""The study of the README: four sites, three seeds, without privacy and with two budgets, against each site alone.

Example::

    python -m fedrelease.simulations.study --out study-out --seeds 0,1,2

Each run is a federation with a store of its own below ``--out``; run again, finished runs are read and interrupted ones go on.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import product
from pathlib import Path
from statistics import mean, stdev

from fedrelease.cache import cache_folder
from fedrelease.errors import FedreleaseError
from fedrelease.experiment import Experiment
from fedrelease.experiment_file import load_experiment
from fedrelease.server.events import Event, Released, Watcher
from fedrelease.server.store import Store
from fedrelease.simulations.simulate import simulate

__all__ = ["Run", "main", "planned_runs", "table"]

SETTINGS = ("four-sites-none", "four-sites-eps8", "four-sites-eps1")
SITES = ("amazon", "movie", "nyt", "tweets")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One federation of the study: ``alone`` names the only site that trains, where there is one."""

    setting: str
    seed: int
    alone: str | None
    experiment: Experiment

    @property
    def name(self) -> str:
        """The folder of its store."""
        return f"{self.setting}-seed{self.seed}" + (f"-{self.alone}-alone" if self.alone else "")


def planned_runs(settings: Sequence[str], seeds: Sequence[int]) -> Iterator[Run]:
    """All runs: every setting with every seed; then, under the first setting, every site alone."""
    for setting, seed in product(settings, seeds):
        yield Run(setting=setting, seed=seed, alone=None, experiment=_seeded(setting, seed))
    for seed, site in product(seeds, SITES if SETTINGS[0] in settings else ()):
        experiment = _seeded(SETTINGS[0], seed)
        phases = tuple(replace(phase, sites=(site,)) for phase in experiment.phases)
        yield Run(setting=SETTINGS[0], seed=seed, alone=site, experiment=replace(experiment, phases=phases))


def _seeded(setting: str, seed: int) -> Experiment:
    text = (files("fedrelease.simulations.studies") / f"{setting}.toml").read_text(encoding="utf-8")
    return load_experiment(Path(f"{setting}.toml"), (f"federation.seed={seed}",), text=text)


def _accuracies(run: Run, out: Path) -> dict[str, float]:
    """The head's accuracy on each site's hold-out."""
    store = out / run.name
    simulate(run.experiment, store=store, cache=cache_folder(), workers=None, watch=_tell(run), say=_to_stderr)
    head = Store.open(store).head()
    return {site: metrics["accuracy"] for site, metrics in head.manifest.metrics.sites.items()} if head else {}


def _tell(run: Run) -> Watcher:
    def watch(event: Event) -> None:
        if isinstance(event, Released):
            _to_stderr(
                f"{run.name}  {event.version}  accuracy {event.metrics.get('accuracy', 0):.4f}  {event.seconds:.0f} s"
            )

    return watch


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def table(results: Mapping[str, Mapping[str, float]], settings: Sequence[str], seeds: Sequence[int]) -> str:
    """A Markdown table: mean accuracy by site over seeds; the last column is the mean of sites, with its spread over seeds."""
    lines = [f"| setting | {' | '.join(SITES)} | mean of sites |", "|---" * (len(SITES) + 2) + "|"]
    for setting in settings:
        runs = [results[f"{setting}-seed{seed}"] for seed in seeds]
        lines.append(_line(setting, [[run[site] for run in runs] for site in SITES]))
    if SETTINGS[0] in settings:
        for site in SITES:
            runs = [results[f"{SETTINGS[0]}-seed{seed}-{site}-alone"] for seed in seeds]
            lines.append(_line(f"{site} alone, no privacy", [[run[other] for run in runs] for other in SITES]))
        lines.append(_line("best other site's, no privacy", [_best_other(results, site, seeds) for site in SITES]))
    return "\n".join(lines)


def _best_other(results: Mapping[str, Mapping[str, float]], site: str, seeds: Sequence[int]) -> list[float]:
    """What ``site`` would get, seed by seed, from that other site's model which serves it best on average."""
    others = [
        [results[f"{SETTINGS[0]}-seed{seed}-{other}-alone"][site] for seed in seeds] for other in SITES if other != site
    ]
    return max(others, key=mean)


def _line(name: str, columns: Sequence[Sequence[float]]) -> str:
    means = [mean(of_seeds) for of_seeds in zip(*columns, strict=True)]
    spread = f" ± {stdev(means):.3f}" if len(means) > 1 else ""
    cells = [f"{mean(column):.3f}" for column in columns]
    return f"| {name} | {' | '.join(cells)} | {mean(means):.4f}{spread} |"


def _seeds(text: str) -> list[int]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers with commas, for example 0,1,2")
    return [int(part) for part in text.split(",")]


def _settings(text: str) -> list[str]:
    unknown = [name for name in text.split(",") if name not in SETTINGS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are {', '.join(SETTINGS)}")
    return text.split(",")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table and write ``results.json`` and ``table.md``; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fedrelease.simulations.study", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("study-out"), help="folder of stores and results")
    parser.add_argument("--seeds", type=_seeds, default="0,1,2", help="comma separated [default: 0,1,2]")
    parser.add_argument(
        "--settings", type=_settings, default=",".join(SETTINGS), help="comma separated [default: all three]"
    )
    given = parser.parse_args(arguments)
    try:
        results = {run.name: _accuracies(run, given.out) for run in planned_runs(given.settings, given.seeds)}
    except FedreleaseError as error:
        _to_stderr(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _to_stderr("stopped: the same command goes on from here")
        return 130
    text = table(results, given.settings, given.seeds)
    (given.out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (given.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
