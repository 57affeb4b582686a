"""Run ours and its bare twin in turns, each in a process of its own, and keep what was measured.

Example::

    bench = measure(experiment, repeats=3, workers=2, folder=Path("bench-out"), cache=cache_folder(), say=print)
    bench.overhead                              # one share for each pair
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fedrelease.catalog import CATALOG
from fedrelease.client.training import steps_per_round
from fedrelease.data.sites import Prepared, open_site, prepare_sites
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import to_document
from fedrelease.fetch import fetch
from fedrelease.files import Json
from fedrelease.models.bases import Base, open_base
from fedrelease.models.precision import chosen_precision
from fedrelease.simulations.bench.process import run_module
from fedrelease.simulations.bench.script import script_of, script_text

__all__ = ["Bench", "Pair", "Run", "measure"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One federation, ours or the bare one.

    Attributes:
        start_s: from the process's start until store and sites are there (ours), or until everything is loaded (bare).
        base_s: what lies between that and the first round: the base's own release. 0 for the bare twin.
        seconds: from the first round's start to the last release.
        steps: those seconds by step.
        busy_s: seconds that workers spent inside tasks, where it was measured.
        peak_bytes: of all processes together.
        state: sha256 of the last state.
        losses: mean loss of every look at a hold-out, where it was measured.
    """

    start_s: float
    base_s: float
    seconds: float
    steps: Mapping[str, float]
    busy_s: float | None
    peak_bytes: int
    state: str
    losses: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Ours and the twin that did the same work right before or after it."""

    ours: Run
    bare: Run

    @property
    def overhead(self) -> float:
        """The share of our wall time that is not in the twin's."""
        return 1 - self.bare.seconds / self.ours.seconds


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Everything that was measured. ``examples`` trained on in one run: expected rows a step, times steps."""

    experiment: Experiment
    sites: tuple[str, ...]
    workers: int
    examples: int
    pairs: tuple[Pair, ...]

    @property
    def states(self) -> tuple[str, ...]:
        """The digests of all last states; one if ours and the twin did the same."""
        return tuple(sorted({run.state for pair in self.pairs for run in (pair.ours, pair.bare)}))

    @property
    def overhead(self) -> tuple[float, ...]:
        """One share for each pair."""
        return tuple(pair.overhead for pair in self.pairs)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where the runs work, and on what."""

    experiment: Experiment
    base: Base
    prepared: Prepared
    cache: Path
    folder: Path
    workers: int


def measure(
    experiment: Experiment,
    *,
    repeats: int,
    workers: int,
    folder: Path,
    cache: Path,
    say: Callable[[str], None],
    warm_up: bool = True,
) -> Bench:
    """Run ``repeats`` pairs; the order within a pair changes from pair to pair, so that neither side gains by it.

    Stores are made anew for each run, below ``folder`` and so on a real disk. The cache is warm: ``warm_up`` runs one round that
    does not count.

    Raises:
        ExperimentError: the experiment is not private.
        EngineError: a run failed; the text says where its log lies.
    """
    if experiment.privacy.unit == "none":
        raise ExperimentError(
            "the benchmark measures private federations",
            value=experiment.privacy.unit,
            rule='privacy.unit is not "none"',
            hint="leave privacy.unit out",
        )
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix="work-") as work:
        place = _place(experiment, cache, Path(work), workers)
        if warm_up:
            say("warming up: one round")
            _ours(replace(place, experiment=_one_round(experiment)), "warm-up")
        pairs = _pairs(place, repeats, say)
    return Bench(
        experiment=experiment,
        sites=place.prepared.sites,
        workers=workers,
        examples=_examples(place),
        pairs=tuple(pairs),
    )


def _place(experiment: Experiment, cache: Path, folder: Path, workers: int) -> _Place:
    for alias in (experiment.model.base, experiment.data.source):
        if alias in CATALOG:
            fetch(alias, cache=cache)
    experiment = replace(experiment, model=chosen_precision(experiment.model, cache))
    base = open_base(experiment.model.base, cache=cache)
    prepared = prepare_sites(
        experiment, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=cache, progress=None
    )
    return _Place(experiment=experiment, base=base, prepared=prepared, cache=cache, folder=folder, workers=workers)


def _one_round(experiment: Experiment) -> Experiment:
    return replace(experiment, phases=(replace(experiment.phases[0], rounds=1),))


def _pairs(place: _Place, repeats: int, say: Callable[[str], None]) -> list[Pair]:
    pairs: list[Pair] = []
    for number in range(repeats):
        first_ours = number % 2 == 0
        bare = None if first_ours else _bare(place)
        ours = _ours(place, f"ours-{number}")
        if number == 0:
            _write_script(place, place.folder / "ours-0")
        pair = Pair(ours=ours, bare=bare or _bare(place))
        say(
            f"pair {number + 1} of {repeats}: ours {ours.seconds:.2f} s, bare {pair.bare.seconds:.2f} s,"
            f" overhead {pair.overhead:.1%}"
        )
        pairs.append(pair)
    return pairs


def _write_script(place: _Place, store: Path) -> None:
    """The twin repeats what the first store tells."""
    script = script_of(place.experiment, store=store, base=place.base, prepared=place.prepared, workers=place.workers)
    (place.folder / "script.json").write_text(script_text(script), encoding="utf-8")


def _ours(place: _Place, name: str) -> Run:
    task = place.folder / f"{name}.json"
    settings: dict[str, Json] = {
        "experiment": to_document(place.experiment),
        "store": str(place.folder / name),
        "cache": str(place.cache),
        "workers": place.workers,
    }
    task.write_text(json.dumps(settings), encoding="utf-8")
    told, begun, peak = run_module("ours", task, threads=None)
    return Run(
        start_s=told["opened"] - begun,
        base_s=told["first"] - told["opened"],
        seconds=told["last"] - told["first"],
        steps=told["steps"],
        busy_s=None,
        peak_bytes=peak,
        state=told["state"],
        losses=(),
    )


def _bare(place: _Place) -> Run:
    told, begun, peak = run_module("bare", place.folder / "script.json", threads=1)
    return Run(
        start_s=told["first"] - begun,
        base_s=0.0,
        seconds=told["last"] - told["first"],
        steps=told["steps"],
        busy_s=told["busy"],
        peak_bytes=peak,
        state=told["state"],
        losses=tuple(told["losses"]),
    )


def _examples(place: _Place) -> int:
    """Training examples of one run: in expectation, since sampling is Poisson."""
    training = place.experiment.training
    rows = [len(open_site(place.prepared.folder / site).train) for site in place.prepared.sites]
    steps = [steps_per_round(count, training, private=True) for count in rows]
    a_round = sum(count * min(training.batch_size, size) for count, size in zip(steps, rows, strict=True))
    return a_round * place.experiment.rounds
