"""Run ours, its bare twin and the usual glue in turns, each in a process of its own, and keep what was measured.

Example::

    bench = measure(experiment, repeats=3, workers=2, folder=Path("bench-out"), cache=cache_folder(), say=print)
    bench.overhead                              # one share for each pair
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fedrelease.catalog import CATALOG
from fedrelease.client.schedule import steps_per_round
from fedrelease.data.sites import open_site, prepare_sites
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment
from fedrelease.fetch import fetch
from fedrelease.models.bases import open_base
from fedrelease.models.precision import chosen_precision
from fedrelease.simulations.bench.accuracy import accuracies
from fedrelease.simulations.bench.runs import (
    Place,
    Run,
    check_fits,
    last_state,
    run_bare,
    run_glue,
    run_ours,
    write_script,
)
from fedrelease.simulations.ray_cluster import check_ray

__all__ = ["Bench", "Pair", "measure", "open_place"]

SIDES = ("ours", "bare", "glue")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Ours, and what did the same work right before or after it: its bare twin (when private), and the glue (when asked for).

    Attributes:
        accuracy: by side and site, of the last states on the hold-outs, exact; looked at when the glue is there.
    """

    ours: Run
    bare: Run | None = None
    glue: Run | None = None
    accuracy: Mapping[str, Mapping[str, float]]

    @property
    def overhead(self) -> float | None:
        """The share of our wall time that is not in the twin's."""
        return None if self.bare is None else 1 - self.bare.seconds / self.ours.seconds

    @property
    def ratio(self) -> float | None:
        """How many times as long as ours the glue takes."""
        return None if self.glue is None else self.glue.seconds / self.ours.seconds


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Everything that was measured. ``examples`` trained on in one run of ours: expected rows a step, times steps."""

    experiment: Experiment
    sites: tuple[str, ...]
    workers: int
    examples: int
    pairs: tuple[Pair, ...]

    @property
    def sides(self) -> Mapping[str, Sequence[Run]]:
        """The runs of each side that was measured, ours first."""
        runs = {
            "ours": [pair.ours for pair in self.pairs],
            "bare": [pair.bare for pair in self.pairs if pair.bare],
            "glue": [pair.glue for pair in self.pairs if pair.glue],
        }
        return {side: found for side, found in runs.items() if found}

    @property
    def states(self) -> tuple[str, ...]:
        """The digests of the last states of ours and of the twin; one if they did the same."""
        return tuple(sorted({run.state for side, runs in self.sides.items() if side != "glue" for run in runs}))

    @property
    def overhead(self) -> tuple[float, ...]:
        """One share for each pair with a twin."""
        return tuple(pair.overhead for pair in self.pairs if pair.overhead is not None)

    @property
    def ratio(self) -> tuple[float, ...]:
        """How many times as long as ours the glue takes, for each pair with the glue."""
        return tuple(pair.ratio for pair in self.pairs if pair.ratio is not None)


def measure(
    experiment: Experiment,
    *,
    repeats: int,
    workers: int,
    folder: Path,
    cache: Path,
    say: Callable[[str], None],
    warm_up: bool = True,
    glue: bool = False,
) -> Bench:
    """Run ``repeats`` pairs; the order within a pair is turned round from pair to pair, so that no side gains by it.

    Stores are made anew for each run, below ``folder`` and so on a real disk. The cache is warm: ``warm_up`` runs one round that
    does not count. Without privacy there is no twin.

    Raises:
        ExperimentError: the experiment is not private and there is no glue, or the glue does not do this experiment.
        EngineError: a run failed, and the text carries its last words; or Ray is missing.
    """
    _check(experiment, glue=glue)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix="work-") as work:
        place = open_place(experiment, cache, Path(work), workers)
        if warm_up:
            say("warming up: one round")
            run_ours(replace(place, experiment=_one_round(experiment)), "warm-up")
        pairs = [_pair(place, number, glue=glue, say=say) for number in range(repeats)]
        pairs = _with_accuracy(place, pairs) if glue else pairs
    return Bench(
        experiment=place.experiment,
        sites=tuple(place.prepared.sites),
        workers=workers,
        examples=_examples(place),
        pairs=tuple(pairs),
    )


def _check(experiment: Experiment, *, glue: bool) -> None:
    if glue:
        check_fits(experiment)
        check_ray("--glue")
    elif experiment.privacy.unit == "none":
        raise ExperimentError(
            "the bare twin repeats private federations only",
            value=experiment.privacy.unit,
            rule='privacy.unit is not "none", or the glue is measured',
            hint="leave privacy.unit out, or add --glue",
        )


def open_place(experiment: Experiment, cache: Path, folder: Path, workers: int) -> Place:
    """Fetch and prepare what all runs share, in ``folder`` and in the cache; the precision is chosen by now."""
    for alias in (experiment.model.base, experiment.data.source):
        if alias in CATALOG:
            fetch(alias, cache=cache)
    experiment = replace(experiment, model=chosen_precision(experiment.model, cache))
    base = open_base(experiment.model.base, cache=cache)
    prepared = prepare_sites(
        experiment, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=cache, progress=None
    )
    return Place(experiment=experiment, base=base, prepared=prepared, cache=cache, folder=folder, workers=workers)


def _one_round(experiment: Experiment) -> Experiment:
    return replace(experiment, phases=(replace(experiment.phases[0], rounds=1),))


def _pair(place: Place, number: int, *, glue: bool, say: Callable[[str], None]) -> Pair:
    private = place.experiment.privacy.unit != "none"
    wanted = [side for side in SIDES if side == "ours" or (private if side == "bare" else glue)]
    runs: dict[str, Run] = {}
    for side in wanted if number % 2 == 0 else reversed(wanted):
        runs[side] = _run(place, side, number)
        say(f"pair {number + 1}: {side} {runs[side].seconds:.2f} s")
    return Pair(ours=runs["ours"], bare=runs.get("bare"), glue=runs.get("glue"), accuracy={})


def _run(place: Place, side: str, number: int) -> Run:
    if side == "bare":
        return run_bare(place)
    if side == "glue":
        return run_glue(place, f"glue-{number}")
    run = run_ours(place, f"ours-{number}")
    if number == 0 and place.experiment.privacy.unit != "none":
        write_script(place, "ours-0")
    return run


def _with_accuracy(place: Place, pairs: Sequence[Pair]) -> list[Pair]:
    """After all runs, so that it disturbs none."""
    states = [last_state(place, f"{side}-{number}") for number in range(len(pairs)) for side in ("ours", "glue")]
    found = accuracies(place, states)
    return [
        replace(pair, accuracy={"ours": ours, "glue": glue})
        for pair, ours, glue in zip(pairs, found[::2], found[1::2], strict=True)
    ]


def _examples(place: Place) -> int:
    """Training examples of one run of ours: in expectation, since private sampling is Poisson."""
    training = place.experiment.training
    rows = [len(open_site(place.prepared.folder / site).train) for site in place.prepared.sites]
    if place.experiment.privacy.unit == "none":
        return round(sum(rows) * training.epochs) * place.experiment.rounds
    steps = [steps_per_round(count, training, private=True) for count in rows]
    a_round = sum(count * min(training.batch_size, size) for count, size in zip(steps, rows, strict=True))
    return a_round * place.experiment.rounds
