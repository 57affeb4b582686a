"""What each lever of the training step is worth: the step with all of them, and with one of them taken away.

Example::

    python -m fedrelease.simulations.bench.levers --repeats 5

One process, one thread, one site of the built-in experiment, the same batches for all. Variants take turns, so that what else
the machine does falls on all alike. Time is processor time of forward, backward, clipping, noise and step; loading is not in it.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

from fedrelease.cache import cache_folder
from fedrelease.client.directives import frozen, parse_directives
from fedrelease.client.sampling import Seeded, poisson_batch, seeded_generator
from fedrelease.client.schedule import steps_per_round
from fedrelease.data.row_files import token_rows
from fedrelease.data.sites import open_site
from fedrelease.data.tokens import TokenRows
from fedrelease.errors import EngineError, FedreleaseError
from fedrelease.files import Json
from fedrelease.models.classifier import TextClassifier, build_classifier
from fedrelease.models.precision import DTYPES
from fedrelease.models.prefix import with_prefix
from fedrelease.privacy import plan_privacy
from fedrelease.simulations.bench.command import tell_failure, wide_console
from fedrelease.simulations.bench.measure import open_place
from fedrelease.simulations.bench.runs import Place
from fedrelease.simulations.bench.scaled import at_least_one, scaled
from fedrelease.simulations.bench.step import Material, Variant, stepper
from fedrelease.strategies import make_strategy

__all__ = ["VARIANTS", "main", "measure_levers"]

OURS = Variant(name="all levers")
VARIANTS = (
    OURS,
    replace(OURS, name="base in float32", precision="float32"),
    replace(OURS, name="frozen layers computed in every step", prefix=False),
    replace(OURS, name="rows in micro-batches as they were drawn", sort=False),
    replace(OURS, name="rows padded to max_length", sort=False, pad=True),
    replace(OURS, name="torch's fused attention", attention="sdpa"),
    replace(OURS, name="Opacus' hooks", gradients="hooks"),
    Variant(
        name="none of them",
        precision="float32",
        prefix=False,
        sort=False,
        pad=True,
        attention="sdpa",
        products="highest",
        gradients="hooks",
    ),
    replace(OURS, name="all levers, noise from the operating system", noise="secure"),
    replace(OURS, name="all levers, no privacy", gradients="plain"),
)


def measure_levers(place: Place, *, steps: int, repeats: int, site: str | None = None) -> Mapping[str, list[float]]:
    """Rows trained on in a second of processor time, by variant and repeat, in turns; a first turn is not counted."""
    torch.set_num_threads(1)
    material = _material(place, site or place.prepared.sites[0])
    freeze = parse_directives(make_strategy(place.experiment.phases[-1].strategy).directives(1)).freeze
    source = Seeded(seeded_generator("levers"))
    batches = [
        poisson_batch(len(material.rows), sample_rate=material.plan.sample_rate, source=source) for _ in range(steps)
    ]
    found: dict[str, list[float]] = {variant.name: [] for variant in VARIANTS}
    for repeat in range(repeats + 1):
        for variant in VARIANTS:
            model = material.models[variant.precision or material.precision]
            with frozen(model, freeze), stepper(variant, material) as step:
                begun = time.process_time()
                for batch in batches[: steps if repeat else 1]:
                    step(batch)
                seconds = time.process_time() - begun
            if repeat:
                found[variant.name].append(sum(len(batch) for batch in batches) / seconds)
    return found


def _material(place: Place, site: str) -> Material:
    experiment = place.experiment
    rows = token_rows(open_site(place.prepared.folder / site).train)
    models = {kind: _model(place, kind) for kind in DTYPES}
    plan = plan_privacy(
        experiment.privacy,
        rows=len(rows),
        batch_size=experiment.training.batch_size,
        steps_per_round=steps_per_round(len(rows), experiment.training, private=True),
        rounds=experiment.rounds,
    )
    if plan is None:
        raise EngineError("levers are measured with privacy", value=experiment.privacy.unit)
    return Material(
        models=models,
        kept={kind: _kept(model, rows, place) for kind, model in models.items()},
        rows=rows,
        precision=experiment.model.precision,
        training=experiment.training,
        plan=plan,
    )


def _model(place: Place, kind: str) -> TextClassifier:
    return build_classifier(place.base, replace(place.experiment.model, precision=kind), seed=0)


def _kept(model: TextClassifier, rows: TokenRows, place: Place) -> TokenRows:
    return token_rows(with_prefix(model, rows, key=place.base.digest[:16]))


def _document(found: Mapping[str, list[float]]) -> dict[str, Json]:
    ratios = {name: _ratios(found, name) for name in found}
    return {
        name: {
            "rows_per_s": median(rates),
            "time": {"min": min(ratios[name]), "median": median(ratios[name]), "max": max(ratios[name])},
        }
        for name, rates in found.items()
    }


def _ratios(found: Mapping[str, list[float]], name: str) -> list[float]:
    """How many times as long as ours, repeat by repeat."""
    return [ours / rate for ours, rate in zip(found[OURS.name], found[name], strict=True)]


def _show(found: Mapping[str, list[float]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("without", no_wrap=True)
    for column in ("rows a second", "time", "min", "max"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, rates in found.items():
        ratios = _ratios(found, name)
        spread = (f"{number:.2f}" for number in (median(ratios), min(ratios), max(ratios)))
        table.add_row(f"({name})" if name == OURS.name else name, f"{median(rates):.1f}", *spread)
    console.print(table)


def main(typed: Sequence[str] | None = None) -> int:
    """Measure, print; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fedrelease.simulations.bench.levers",
        description="Measure what each lever of the training step is worth.",
    )
    parser.add_argument("--steps", type=at_least_one, default=2, help="steps of one turn [default: 2]")
    parser.add_argument("--repeats", type=at_least_one, default=5, help="turns of every variant [default: 5]")
    parser.add_argument("--limit", type=at_least_one, default=1000, help="rows of the site [default: 1000]")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(typed)
    try:
        with TemporaryDirectory() as folder:
            place = open_place(scaled(1, given.limit), cache_folder(), Path(folder), workers=1)
            found = measure_levers(place, steps=given.steps, repeats=given.repeats)
    except FedreleaseError as error:
        return tell_failure(error, as_json=given.json)
    if given.json:
        print(json.dumps(_document(found), indent=2))
    else:
        _show(found, wide_console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
