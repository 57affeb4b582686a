"""Does being quick cost accuracy? The same federation by ours and by the slow ways, seed by seed, and the differences.

Example::

    python -m fedrelease.simulations.bench.paired --seeds 0,1,2,3,4 --rounds 3
    python -m fedrelease.simulations.bench.paired --glue                  # beside Flower on Ray, PEFT and Opacus too

Every seed splits the rows anew. ``exact`` is ours with the base in float32 and nothing kept of the frozen layers. Noise differs
between the sides, since it follows from all that an answer depends on: a difference of one seed says little, their mean counts.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table
from scipy.stats import t

from fedrelease.cache import cache_folder
from fedrelease.errors import FedreleaseError
from fedrelease.experiment import Experiment
from fedrelease.files import Json
from fedrelease.server.store import Store
from fedrelease.simulations.bench.accuracy import accuracies
from fedrelease.simulations.bench.command import tell_failure, wide_console
from fedrelease.simulations.bench.measure import open_place
from fedrelease.simulations.bench.runs import Place, last_state, run_glue, run_ours
from fedrelease.simulations.bench.scaled import at_least_one, scaled
from fedrelease.simulations.engine import default_workers
from fedrelease.simulations.ray_cluster import check_ray

__all__ = ["interval", "main", "measure_pairs"]

CONFIDENCE = 0.95


def measure_pairs(
    experiment: Experiment, seeds: Sequence[int], *, glue: bool, folder: Path, cache: Path, say: Callable[[str], None]
) -> dict[str, list[dict[str, float]]]:
    """For each side, for each seed: ``accuracy``, the mean of the sites' exact ones, and ``epsilon``, 0 without privacy.

    Raises:
        EngineError: a run failed, and the text carries its last words.
    """
    found: dict[str, list[dict[str, float]]] = {"ours": [], "exact": [], **({"glue": []} if glue else {})}
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        with TemporaryDirectory(dir=folder, prefix="work-") as work:
            seeded = replace(experiment, federation=replace(experiment.federation, seed=seed))
            place = open_place(seeded, cache, Path(work), default_workers(None))
            for side, runs in found.items():
                runs.append(_run(place, side))
                say(f"seed {seed}: {side} {runs[-1]['accuracy']:.4f}")
    return found


def _run(place: Place, side: str) -> dict[str, float]:
    if side == "glue":
        run_glue(place, side)
    else:
        run_ours(_exact(place) if side == "exact" else place, side)
    by_site = accuracies(_exact(place), [last_state(place, side)])[0]
    return {"accuracy": mean(by_site.values()), "epsilon": _epsilon(place, side)}


def _exact(place: Place) -> Place:
    experiment = place.experiment
    return replace(
        place,
        experiment=replace(
            experiment,
            model=replace(experiment.model, precision="float32"),
            training=replace(experiment.training, keep_prefix=False),
        ),
    )


def _epsilon(place: Place, side: str) -> float:
    """What the release says; the glue keeps no book, and plans for the same."""
    if side == "glue" or place.experiment.privacy.unit == "none":
        return place.experiment.privacy.epsilon if place.experiment.privacy.unit != "none" else 0.0
    head = Store.open(place.folder / side).head()
    return head.manifest.privacy.epsilon_total if head and head.manifest.privacy else 0.0


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """The mean of paired differences, and the ends of its 95 % confidence interval by Student's t."""
    middle = mean(differences)
    if len(differences) < 2:
        return middle, -math.inf, math.inf
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1)) * stdev(differences) / math.sqrt(len(differences))
    return middle, middle - half, middle + half


def _differences(found: Mapping[str, Sequence[Mapping[str, float]]], side: str) -> list[float]:
    pairs = zip(found["ours"], found[side], strict=True)
    return [ours["accuracy"] - other["accuracy"] for ours, other in pairs]


def _show(found: Mapping[str, Sequence[Mapping[str, float]]], seeds: Sequence[int], console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("seed", *found, *(f"ours - {side}" for side in found if side != "ours"), "epsilon"):
        table.add_column(column, justify="right", no_wrap=True)
    others = [side for side in found if side != "ours"]
    for place, seed in enumerate(seeds):
        told = [f"{found[side][place]['accuracy']:.4f}" for side in found]
        apart = [f"{_differences(found, side)[place]:+.4f}" for side in others]
        epsilons = sorted({f"{found[side][place]['epsilon']:.2f}" for side in found})
        table.add_row(str(seed), *told, *apart, ", ".join(epsilons))
    console.print(table)
    for side in others:
        middle, low, high = interval(_differences(found, side))
        console.print(f"ours - {side}: {middle:+.4f}, 95 % confidence {low:+.4f} to {high:+.4f}, {len(seeds)} seeds")


def _document(found: Mapping[str, Sequence[Mapping[str, float]]], seeds: Sequence[int]) -> dict[str, Json]:
    sides: dict[str, Json] = {side: [dict(run) for run in runs] for side, runs in found.items()}
    apart: dict[str, Json] = {side: list(interval(_differences(found, side))) for side in found if side != "ours"}
    return {"seeds": list(seeds), "sides": sides, "ours_minus": apart}


def main(typed: Sequence[str] | None = None) -> int:
    """Measure, print; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fedrelease.simulations.bench.paired",
        description="Compare the accuracy of ours with the slow ways, seed by seed.",
    )
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2, 3, 4])
    parser.add_argument("--rounds", type=at_least_one, default=3, help="rounds of one run [default: 3]")
    parser.add_argument("--limit", type=at_least_one, default=1000, help="rows of one site [default: 1000]")
    parser.add_argument("--privacy", choices=("keep", "none"), default="keep", help="none: the federation without it")
    parser.add_argument("--glue", action="store_true", help="the usual glue too (needs the extra ray)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder to work in [default: bench-out]")
    given = parser.parse_args(typed)
    try:
        if given.glue:
            check_ray("--glue")
        found = measure_pairs(
            scaled(given.rounds, given.limit, given.privacy),
            given.seeds,
            glue=given.glue,
            folder=given.out,
            cache=cache_folder(),
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except FedreleaseError as error:
        return tell_failure(error, as_json=given.json)
    if given.json:
        print(json.dumps(_document(found, given.seeds), indent=2))
    else:
        _show(found, given.seeds, wide_console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
