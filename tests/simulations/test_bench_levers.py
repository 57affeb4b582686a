"""Levers: each can be taken away, and what is measured does the same work with it and without."""

from pathlib import Path

import pytest
import torch
from tiny import experiment_text, make_rows

from fedrelease.experiment_file import load_experiment
from fedrelease.models.classifier import load_state, trainable_state
from fedrelease.simulations.bench import levers
from fedrelease.simulations.bench.levers import OURS, VARIANTS, measure_levers
from fedrelease.simulations.bench.measure import open_place
from fedrelease.simulations.bench.runs import Place
from fedrelease.simulations.bench.step import Material, stepper
from fedrelease.update import State


@pytest.fixture
def place(tiny_base: Path, tmp_path: Path) -> Place:
    rows = make_rows(tmp_path / "rows.csv", sites=("a",), rows=60)
    experiment = load_experiment(None, text=experiment_text(tiny_base, rows))
    return open_place(experiment, tmp_path / "cache", tmp_path, workers=1)


@pytest.fixture
def material(place: Place) -> Material:
    return levers._material(place, "a")


def stepped(material: Material, name: str) -> State:
    """How far one step moves the state, from the same state with the same noise."""
    variant = next(variant for variant in VARIANTS if variant.name == name)
    model = material.models[variant.precision or material.precision]
    numbers = torch.Generator().manual_seed(5)
    before = {n: 0.3 * torch.randn(t.shape, generator=numbers) for n, t in trainable_state(model).items()}
    load_state(model, before)
    with stepper(variant, material) as step:
        step(torch.arange(0, 40, 2))
    return {n: value - before[n] for n, value in trainable_state(model).items()}


@pytest.mark.parametrize("name", [v.name for v in VARIANTS if v.gradients != "plain" and v.noise == "seeded"])
def test_a_step_without_a_lever_goes_where_ours_goes(material: Material, name: str) -> None:
    ours, other = stepped(material, OURS.name), stepped(material, name)
    moved = sum(float(value.square().sum()) for value in ours.values())
    off = sum(float((value - other[n]).square().sum()) for n, value in ours.items())
    assert moved > 0
    assert off < 1e-3 * moved


def test_every_variant_is_measured_in_every_turn(place: Place) -> None:
    threads = torch.get_num_threads()
    found = measure_levers(place, steps=1, repeats=2)
    torch.set_num_threads(threads)
    assert list(found) == [variant.name for variant in VARIANTS]
    assert all(len(rates) == 2 and min(rates) > 0 for rates in found.values())
    assert levers._document(found)[OURS.name]["time"] == {"min": 1.0, "median": 1.0, "max": 1.0}  # type: ignore[call-overload, index]


def test_a_model_is_left_with_our_layers_and_our_attention(material: Material) -> None:
    for variant in VARIANTS:
        stepped(material, variant.name)
    for model in material.models.values():
        assert model.encoder.config._attn_implementation == "eager"
        assert not any(hasattr(value, "grad_sample") for value in model.parameters() if value.requires_grad)
        assert type(model.head).__name__ == "Head"
