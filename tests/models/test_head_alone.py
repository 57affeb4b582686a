"""The head alone on a text base: what is trained, what is kept of the base, and what has no head to train."""

from pathlib import Path

import pytest
import torch
from tiny import token_rows

from fedrelease.adapter import AdapterChange
from fedrelease.adapter_plan import check_adapters
from fedrelease.client.selftest import check_gradients
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Adapter, Experiment, Model
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import build_classifier, load_state, trainable_state
from fedrelease.models.prefix import with_prefix

ALONE = Model(adapter=Adapter(kind="head"))


def test_all_layers_are_kept_and_give_what_they_would_have_given(tmp_path: Path, tiny_base: Path) -> None:
    model = build_classifier(open_base(str(tiny_base), cache=tmp_path), ALONE, seed=3)
    assert list(trainable_state(model)) == ["head.bias", "head.weight"]
    load_state(model, {name: torch.randn(value.shape) for name, value in trainable_state(model).items()})
    rows = token_rows(tmp_path / "rows.safetensors", tiny_base)
    assert model.frozen_layers == 2
    carried = with_prefix(model, rows, key="x")
    torch.testing.assert_close(model(*carried.batch([1, 5]).inputs), model(*rows.batch([1, 5]).inputs))
    check_gradients(model, carried)


def test_a_language_model_has_no_head_to_train() -> None:
    with pytest.raises(ExperimentError, match=r"model\.adapter\.kind.*not head with causal-lm"):
        Experiment(model=Model(task="causal-lm", adapter=Adapter(kind="head")))


def test_no_phase_adds_to_a_base_of_which_nothing_is_trained() -> None:
    with pytest.raises(ExperimentError, match='left out with kind = "head"'):
        check_adapters(Adapter(kind="head"), [AdapterChange(), AdapterChange(rank=16)])
