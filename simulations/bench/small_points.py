"""Rounds of many tiny clients, measured: one side at one size after the other, in turns.

Example::

    points = measure_small(["ours"], cohorts=[10, 1000], populations=[1000], rounds=5, repeats=3, folder=Path("out"))
    points[0].client_ms
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic

import torch
from safetensors.torch import save_file

from fedrelease.data.images import IMAGES
from fedrelease.errors import EngineError
from fedrelease.files import Json
from fedrelease.simulations.bench.process import Found, run_module
from fedrelease.simulations.bench.usage import Usage

__all__ = ["PRIVATE", "Point", "measure_small"]

TRAINED_SHARE = 0.8
PFL_SIDE = Path(__file__).with_name("small_pfl.py")
"""Not imported: it needs a package that only its own interpreter has."""
PRIVATE = "ours, private"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One side at one size: a round's seconds in each run, the most memory of all its processes, and its accuracy at the end."""

    side: str
    clients: int
    population: int
    round_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)

    @property
    def client_ms(self) -> float:
        """Milliseconds of a round for one of its clients."""
        return 1000 * median(self.round_s) / self.clients

    def to_json(self) -> Mapping[str, Json]:
        """For scripts."""
        return {**vars(self), "client_ms": self.client_ms}


def measure_small(
    sides: Sequence[str],
    *,
    cohorts: Sequence[int],
    populations: Sequence[int],
    rounds: int,
    repeats: int,
    folder: Path,
    pfl_python: Path | None = None,
) -> list[Point]:
    """Each side at each cohort and population, in turns.

    Raises:
        EngineError: a run failed, and the text carries its last words.
    """
    points = [
        Point(side=side, clients=clients, population=max(population, clients))
        for population in populations
        for clients in cohorts
        for side in sides
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix="work-") as work:
        rows = _write_rows(Path(work) / "rows.safetensors")
        for repeat in range(repeats):
            for number, point in enumerate(points if repeat % 2 == 0 else points[::-1]):
                task = _write_task(Path(work), f"{repeat}-{number}", point, rounds, rows)
                _run(point, task, pfl_python)
                print(f"run {repeat + 1}: {point.side}, {point.clients} of {point.population} clients:"
                      f" {1000 * point.round_s[-1]:.0f} ms a round", file=sys.stderr, flush=True)  # fmt: skip
    return points


def _write_rows(path: Path) -> Path:
    """Digits, most to train on and the rest held out, for the sides that are not ours."""
    features, labels = IMAGES["digits"].read(Path())
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, held = order[: int(TRAINED_SHARE * len(order))], order[int(TRAINED_SHARE * len(order)) :]
    parts = {"features": features[train], "labels": labels[train]}
    save_file({**parts, "holdout_features": features[held], "holdout_labels": labels[held]}, str(path))
    return path


def _write_task(work: Path, name: str, point: Point, rounds: int, rows: Path) -> Path:
    task = work / f"{name}.json"
    settings: dict[str, Json] = {
        "clients": point.clients,
        "population": point.population,
        "rounds": rounds + 1,
        "rows": 20,
        "batch": 10,
        "hidden": 64,
        "lr": 0.1,
        "seed": 7,
        "data": str(rows),
        "store": str(work / name),
        "privacy": "example" if point.side == PRIVATE else "none",
    }
    task.write_text(json.dumps(settings), encoding="utf-8")
    return task


def _run(point: Point, task: Path, pfl_python: Path | None) -> None:
    if point.side == "pfl" and pfl_python is not None:
        found = _run_pfl(task, pfl_python)
    elif point.side in ("ours", PRIVATE):
        found = run_module("small_ours", task, threads=None)
    else:
        found = run_module(f"small_{point.side}", task, threads=None if point.side == "ray" else 1)
    point.round_s.append(median(found.told["round_s"][1:]))
    point.cpu_s.append(found.cpu_s)
    point.peak_bytes.append(found.peak_bytes)
    point.accuracy.append(float(found.told["accuracy"]))


def _run_pfl(task: Path, python: Path) -> Found:
    """The one side that runs where this package need not be."""
    begun = monotonic()
    process = subprocess.Popen(
        [str(python), "-P", str(PFL_SIDE), str(task)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    with Usage(process.pid) as usage:
        told, errors = process.communicate()
    if process.returncode != 0 or not told.strip():
        raise EngineError(f"the run pfl ended with status {process.returncode}", value=errors[-2000:])
    return Found(told=json.loads(told.splitlines()[-1]), begun=begun, peak_bytes=usage.peak_bytes, cpu_s=usage.cpu_s)
