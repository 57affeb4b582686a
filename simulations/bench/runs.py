"""One measured run of each side: ours, its bare twin, the usual glue.

Example::

    ours = run_ours(place, "ours-0")
    write_script(place, "ours-0")
    run_bare(place).seconds / ours.seconds
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedrelease.data.sites import Prepared
from fedrelease.errors import EngineError, ExperimentError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import to_document
from fedrelease.files import Json
from fedrelease.models.bases import Base
from fedrelease.server.store import Store
from fedrelease.simulations.bench.process import run_module
from fedrelease.simulations.bench.script import script_of, script_text
from fedrelease.training_rules import is_plain
from fedrelease.update import State, read_state, state_digest

__all__ = ["Place", "Run", "check_fits", "last_state", "run_bare", "run_glue", "run_ours", "write_script"]

GLUE_STATE = "final.safetensors"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the runs work, and on what."""

    experiment: Experiment
    base: Base
    prepared: Prepared
    cache: Path
    folder: Path
    workers: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """One federation of one side.

    Attributes:
        start_s: from the process's start until store and sites are there (ours), or until everything is loaded (bare); from
            Flower's start until Ray's actors have imported everything (glue).
        base_s: what lies between that and the first round: the base's own release. 0 for the others.
        seconds: from the first round's start to the last release, or to the last evaluation.
        steps: those seconds by step.
        busy_s: seconds that workers spent inside tasks, where it was measured.
        peak_bytes: of all processes together. cpu_s: processor time of all, from start to end.
        examples: rows trained on, with repetition, where they were counted.
        state: sha256 of the last state.
        losses: mean loss of every look at a hold-out, where it was measured.
    """

    start_s: float
    base_s: float
    seconds: float
    steps: Mapping[str, float]
    busy_s: float | None
    peak_bytes: int
    cpu_s: float
    examples: int | None
    state: str
    losses: tuple[float, ...]


def check_fits(experiment: Experiment) -> None:
    """Refuse what the glue would do otherwise than ours.

    Raises:
        ExperimentError: phases, cohorts, parts of passes, early stopping, or a hold-out policy that it does not have.
    """
    training, phase = experiment.training, experiment.phases[0]
    fits = {
        "one phase": len(experiment.phases) == 1,
        "every site in every round": phase.sites_per_round == 1.0 and not phase.sites,
        "whole passes": training.epochs >= 1 and training.epochs == round(training.epochs),
        "no training.max_steps and no training.patience": training.max_steps is None and training.patience is None,
        "plain losses of rows as they are": is_plain(training),
        "sites that are looked at": experiment.privacy.unit == "none" or experiment.privacy.metrics != "withheld",
        "strategy fedavg or ffa-lora": phase.strategy.name in ("fedavg", "ffa-lora"),
    }
    broken = [rule for rule, holds in fits.items() if not holds]
    if broken:
        raise ExperimentError(
            "the glue does not do this experiment",
            value=experiment.federation.name,
            rule=f"it has {', '.join(broken)}",
            hint="leave --glue out",
        )


def _task(place: Place, name: str) -> Path:
    settings: dict[str, Json] = {
        "experiment": to_document(place.experiment),
        "store": str(place.folder / name),
        "cache": str(place.cache),
        "workers": place.workers,
    }
    task = place.folder / f"{name}.json"
    task.write_text(json.dumps(settings), encoding="utf-8")
    return task


def run_ours(place: Place, name: str) -> Run:
    """A complete simulation with a store of its own, called ``name``."""
    found = run_module("ours", _task(place, name), threads=None)
    told = found.told
    return Run(
        start_s=told["opened"] - found.begun,
        base_s=told["first"] - told["opened"],
        seconds=told["last"] - told["first"],
        steps=told["steps"],
        busy_s=None,
        peak_bytes=found.peak_bytes,
        cpu_s=found.cpu_s,
        examples=None,
        state=told["state"],
        losses=(),
    )


def write_script(place: Place, name: str) -> None:
    """The twin repeats what the store of that run of ours tells."""
    script = script_of(
        place.experiment,
        store=place.folder / name,
        base=place.base,
        prepared=place.prepared,
        workers=place.workers,
    )
    (place.folder / "script.json").write_text(script_text(script), encoding="utf-8")


def run_bare(place: Place) -> Run:
    """The twin; there is a script by now."""
    found = run_module("bare", place.folder / "script.json", threads=1)
    told = found.told
    return Run(
        start_s=told["first"] - found.begun,
        base_s=0.0,
        seconds=told["last"] - told["first"],
        steps=told["steps"],
        busy_s=told["busy"],
        peak_bytes=found.peak_bytes,
        cpu_s=found.cpu_s,
        examples=None,
        state=told["state"],
        losses=tuple(told["losses"]),
    )


def run_glue(place: Place, name: str) -> Run:
    """The usual parts; texts and the last state lie below ``name``."""
    found = run_module("glue", _task(place, name), threads=None)
    told = found.told
    return Run(
        start_s=told["first"] - told["started"],
        base_s=0.0,
        seconds=told["last"] - told["first"],
        steps=told["steps"],
        busy_s=None,
        peak_bytes=found.peak_bytes,
        cpu_s=found.cpu_s,
        examples=told["examples"],
        state=state_digest(read_state(place.folder / name / GLUE_STATE)),
        losses=(),
    )


def last_state(place: Place, name: str) -> State:
    """With what a run of ours or of the glue ended.

    Raises:
        EngineError: there is no such run.
    """
    glue = place.folder / name / GLUE_STATE
    if glue.exists():
        return read_state(glue)
    head = Store.open(place.folder / name).head()
    if head is None:
        raise EngineError("a run has released nothing", value=name)
    return head.state()
