"""The sides that many tiny clients are compared on: a bare loop against a slow twin, and (slow) Flower on Ray and ``pfl``."""

import json
import os
import subprocess
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from fedrelease.errors import EngineError
from fedrelease.simulations.bench import small_bare, small_task
from fedrelease.simulations.bench.process import run_module
from fedrelease.simulations.bench.small_task import Table, Task

PFL_PYTHON = os.environ.get("FEDRELEASE_PFL_PYTHON", "")
CHANCE = 0.1
ONE_ROW = 1 / 360
"""Of the hold-out: sums in another order may tip a row that lies between two classes."""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Three of five clients in each of two rounds, on scikit-learn's digits at the size of MNIST's."""
    digits = load_digits()
    pixels = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    features = interpolate(pixels, size=(28, 28), mode="bilinear").flatten(1).contiguous()
    labels = torch.tensor(digits.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(7))
    train, holdout = order[:1437], order[1437:]
    rows = {"features": features[train], "labels": labels[train]}
    rows |= {"holdout_features": features[holdout], "holdout_labels": labels[holdout]}
    data = tmp_path_factory.mktemp("digits") / "rows.safetensors"
    save_file(rows, data)
    return Task(clients=3, rounds=2, rows=20, batch=10, hidden=64, lr=0.1, seed=7, data=str(data), population=5)


@pytest.fixture(scope="module")
def everyone(task: Task) -> Task:
    """All of twenty clients in each of three rounds: no cohort is drawn."""
    return replace(task, clients=20, population=20, rounds=3)


def written(task: Task, folder: Path) -> Path:
    path = folder / "task.json"
    path.write_text(json.dumps(asdict(task)), encoding="utf-8")
    return path


def trained_alone(model: nn.Module, task: Task, table: Table, client: int) -> Mapping[str, torch.Tensor]:
    alone = deepcopy(model)
    optimizer = torch.optim.SGD(alone.parameters(), lr=task.lr, momentum=0.9)
    places = small_task.rows_of(task, client, len(table.labels))
    for first in range(0, task.rows, task.batch):
        batch = places[first : first + task.batch]
        optimizer.zero_grad()
        cross_entropy(alone(table.features[batch]), table.labels[batch]).backward()
        optimizer.step()
    return alone.state_dict()


def twin(model: nn.Module, task: Task, table: Table) -> nn.Module:
    """Every client on a copy of its own; the new weights are the mean of the copies'."""
    for number in range(1, task.rounds + 1):
        states = [trained_alone(model, task, table, client) for client in small_task.cohort(task, number)]
        mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
        model.load_state_dict(mean)
    return model


@pytest.mark.parametrize("rows", [20, 25])
def test_the_bare_loop_ends_in_the_weights_of_a_slow_twin(rows: int, task: Task) -> None:
    """25 rows: the last batch is half a batch."""
    task = replace(task, rows=rows)
    table, bare = small_task.read_table(task), small_task.new_model(task)
    round_s = small_bare.federate(bare, task, table)
    slow = twin(small_task.new_model(task), task, table)
    assert len(round_s) == 2 and min(round_s) > 0
    for name, tensor in slow.state_dict().items():
        torch.testing.assert_close(bare.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)
        assert not torch.equal(tensor, small_task.new_model(task).state_dict()[name]), name


def test_the_bare_side_tells_what_it_took_and_reached(everyone: Task, tmp_path: Path) -> None:
    told = run_module("small_bare", written(everyone, tmp_path), threads=1).told
    assert sorted(told) == ["accuracy", "clients", "round_s", "version"]
    assert len(told["round_s"]) == 3 and told["clients"] == 20
    assert told["accuracy"] > 2 * CHANCE
    assert told["version"].startswith("torch 2.")


def test_the_model_has_the_weights_that_the_benchmark_names(task: Task) -> None:
    """784 x 64 + 64 + 64 x 10 + 10 = 50,890."""
    assert sum(weight.numel() for weight in small_task.new_model(task).parameters()) == 50_890


def test_a_cohort_is_sorted_without_repetition_and_another_in_each_round(task: Task) -> None:
    task = replace(task, clients=50, population=1000)
    first, second = small_task.cohort(task, 1), small_task.cohort(task, 2)
    assert first == sorted(set(first)) == small_task.cohort(task, 1)
    assert len(first) == 50 and first != second


@pytest.mark.parametrize(("part", "value"), [("clients", 0), ("clients", 6), ("rounds", 0), ("batch", 0)])
def test_a_task_that_no_side_can_run_is_refused(part: str, value: int, task: Task) -> None:
    with pytest.raises(EngineError, match="1"):
        small_task.task_from({**asdict(task), part: value})


@pytest.mark.slow
def test_flower_on_ray_ends_where_the_bare_loop_does(everyone: Task, tmp_path: Path) -> None:
    """Ray's start alone takes ten seconds."""
    pytest.importorskip("ray")
    path = written(everyone, tmp_path)
    told = run_module("small_ray", path, threads=1).told
    bare = run_module("small_bare", path, threads=1).told
    assert len(told["round_s"]) == 3 and told["clients"] == 20 and told["version"].startswith("flwr ")
    assert told["accuracy"] > 2 * CHANCE
    assert told["accuracy"] == pytest.approx(bare["accuracy"], abs=2 * ONE_ROW)


@pytest.mark.skipif(not PFL_PYTHON, reason="FEDRELEASE_PFL_PYTHON names no interpreter with pfl")
def test_pfl_ends_where_the_bare_loop_does(task: Task, tmp_path: Path) -> None:
    """It draws no cohorts of its own: 30 of 50 clients are the same on both sides."""
    path = written(replace(task, clients=30, population=50, rounds=3), tmp_path)
    script = Path(small_task.__file__).with_name("small_pfl.py")
    ended = subprocess.run([PFL_PYTHON, "-P", script, path], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    told, bare = json.loads(ended.stdout.splitlines()[-1]), run_module("small_bare", path, threads=1).told
    assert len(told["round_s"]) == 3 and told["clients"] == 30 and told["version"].startswith("pfl 0.6.")
    assert told["accuracy"] > 2 * CHANCE
    assert told["accuracy"] == pytest.approx(bare["accuracy"], abs=2 * ONE_ROW)


def test_the_script_for_pfl_needs_nothing_of_this_package() -> None:
    source = Path(small_task.__file__).with_name("small_pfl.py").read_text(encoding="utf-8")
    assert "import fedrelease" not in source and "from fedrelease" not in source
