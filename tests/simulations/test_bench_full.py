"""Every weight, four ways: the private ones make the same step, and each is measured in every turn."""

import json
from pathlib import Path

import pytest
import torch

from fedrelease.models.classifier import trainable_state
from fedrelease.simulations.bench import full, full_step
from fedrelease.simulations.bench.full import WAYS, main
from fedrelease.update import State


def stepped(base: Path, way: str) -> State:
    model = full_step._model(str(base))
    before = trainable_state(model)
    with full_step.stepper(way, model, 6) as step:
        step(*full_step._batch(model, 6, 9))
    return {name: value - before[name] for name, value in trainable_state(model).items()}


@pytest.mark.parametrize("way", ["opacus-ghost", "opacus-hooks"])
def test_opacus_makes_the_step_that_book_keeping_makes(
    tiny_base: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_step, "NOISE", 1e-9)  # noise is drawn in another order
    monkeypatch.setattr(
        full_step, "_adamw", lambda model: torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    )
    ours, other = stepped(tiny_base, "book-keeping"), stepped(tiny_base, way)
    moved = sum(float(value.square().sum()) for value in ours.values())
    off = sum(float((value - other[name]).square().sum()) for name, value in ours.items())
    assert moved > 1e-4
    assert off < 1e-6 * moved


def test_the_ways_are_those_that_a_process_knows() -> None:
    assert sorted(WAYS) == sorted(full_step.WAYS)


@pytest.mark.slow
def test_every_way_is_measured_and_compared_with_plain(
    tiny_base: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(full, "WAYS", ("plain", "book-keeping"))
    assert (
        main(["--base", str(tiny_base), "--rows", "4", "--tokens", "6", "--steps", "1", "--repeats", "1", "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["plain", "book-keeping"]
    assert found["plain"]["time"] == found["plain"]["memory"] == {"min": 1.0, "median": 1.0, "max": 1.0}
    assert found["book-keeping"]["step_s"] > 0
    assert found["book-keeping"]["memory_mb"] > 0


def test_a_base_that_is_not_there_is_told_and_not_raised(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base", "no/such/folder/here", "--json"]) == 1
    assert "error" in json.loads(capsys.readouterr().err)
