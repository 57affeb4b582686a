"""The check before private training: silent when all is well, and loud, by name, when a layer is wrong."""

from pathlib import Path

import pytest
import torch
from one_site import make_experiment, make_request, random_state

from fedrelease.client import selftest
from fedrelease.client.selftest import check_gradients
from fedrelease.client.site import Site, train_site
from fedrelease.data.tokens import TokenRows
from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter, Model
from fedrelease.models import per_example as module
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier, load_state, trainable_state


def test_a_model_that_is_right_passes_and_is_left_as_it_was(model: TextClassifier, rows: TokenRows) -> None:
    load_state(model, {name: torch.zeros_like(value) for name, value in trainable_state(model).items()})
    check_gradients(model, rows)
    assert all(not value.any() for value in trainable_state(model).values())
    for parameter in model.parameters():
        assert parameter.grad is None
        assert not hasattr(parameter, "grad_sample")


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
@pytest.mark.parametrize("fault", ["half", "mixed", "nan"])
def test_a_wrong_gradient_is_named(
    model: TextClassifier, rows: TokenRows, monkeypatch: pytest.MonkeyPatch, factor: str, fault: str
) -> None:
    """Half as long, of the neighbour, or no number: under each of them clipping would bound something else."""
    note, load = module._note, {id(value) for name, value in model.named_parameters() if factor in name}
    wrong = {"half": lambda g: 0.5 * g, "mixed": lambda g: g.roll(1, 0), "nan": lambda g: g * float("nan")}[fault]
    monkeypatch.setattr(module, "_note", lambda value, g: note(value, wrong(g) if id(value) in load else g))
    with pytest.raises(
        ModelError, match=rf"gradients by example of encoder\.layer\.1.*{factor} are wrong.*constraints"
    ):
        check_gradients(model, rows)


def test_a_factor_that_starts_at_zero_hides_nothing(
    model: TextClassifier, rows: TokenRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B is zero at the start, and A's gradient with it, right or wrong."""
    state = random_state(model, seed=5)
    load_state(model, {name: torch.zeros_like(v) if "lora_B" in name else v for name, v in state.items()})
    note, first = module._note, {id(value) for name, value in model.named_parameters() if "lora_A" in name}
    monkeypatch.setattr(module, "_note", lambda value, g: note(value, 2 * g if id(value) in first else g))
    with pytest.raises(ModelError, match="lora_A are wrong"):
        check_gradients(model, rows)


def test_it_looks_once_for_each_set_of_trained_parameters(
    model: TextClassifier, rows: TokenRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    look = selftest._check
    monkeypatch.setattr(
        selftest, "_check", lambda model, rows, trained: (looks.append(len(trained)), look(model, rows, trained))
    )
    check_gradients(model, rows)
    check_gradients(model, rows)
    parameters = dict(model.named_parameters())
    next(value for name, value in parameters.items() if "lora_A" in name).requires_grad_(False)
    check_gradients(model, rows)
    assert len(looks) == 2


def test_a_site_whose_gradients_are_wrong_is_charged_nothing(
    site: Site, tmp_path: Path, tiny_base: Path, model: TextClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = module._note
    monkeypatch.setattr(module, "_note", lambda value, g: note(value, 2 * g))
    with pytest.raises(ModelError, match="are wrong"):
        train_site(site, make_request(make_experiment(tmp_path, tiny_base)), trainable_state(model), model)
    assert site.ledger.entries() == ()


@pytest.mark.parametrize("fault", ["half", "mixed"])
def test_a_wrong_gradient_of_a_core_is_named(
    tiny_base: Path, rows: TokenRows, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    adapter = Adapter(kind="lora-sb", rank=2, layers="last:1")
    cores = build_classifier(open_base(str(tiny_base), cache=tiny_base), Model(adapter=adapter), seed=3)
    check_gradients(cores, rows)
    twin = build_classifier(open_base(str(tiny_base), cache=tiny_base), Model(adapter=adapter), seed=3)
    note, wrong = module._note, {"half": lambda g: 0.5 * g, "mixed": lambda g: g.roll(1, 0)}[fault]
    monkeypatch.setattr(module, "_note", lambda value, g: note(value, wrong(g) if g.shape[1:] == (2, 2) else g))
    with pytest.raises(ModelError, match=r"gradients by example of encoder\.layer\.1.*lora_R are wrong"):
        check_gradients(twin, rows)


def test_a_model_with_residuals_passes_and_they_are_left_alone(tiny_base: Path, rows: TokenRows) -> None:
    adapter = Adapter(rank=2, layers="last:1", residual=True)
    beside = build_classifier(open_base(str(tiny_base), cache=tiny_base), Model(adapter=adapter), seed=3)
    state = {name: torch.full_like(value, 0.1) for name, value in trainable_state(beside).items()}
    load_state(beside, state)
    check_gradients(beside, rows)
    assert all(torch.equal(value, state[name]) for name, value in trainable_state(beside).items())
