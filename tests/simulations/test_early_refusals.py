"""What cannot be trained is refused before version 0.0.0 is made: no release, and no site has paid for anything."""

from pathlib import Path

import pytest
from federations import Federation
from other_bases import other_base, small_deberta

from fedrelease.errors import EngineError, ModelError
from fedrelease.server.store import Store
from fedrelease.simulations.simulate import sites_folder

IMAGES = """
[model]
base = "cnn:1x8x8-4"
task = "image-classification"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
[data]
source = "digits"
partition = { by = "iid", sites = 2 }
"""


def assert_nothing_was_released_or_charged(federation: Federation, store: str) -> None:
    folder = federation.folder / store
    assert Store.open(folder).releases() == ()
    assert list(sites_folder(folder).glob("*/ledger.jsonl")) == []


def test_a_base_whose_weights_cannot_be_trained_privately_is_refused(
    federation: Federation, tiny_base: Path, tmp_path: Path
) -> None:
    """Made by the engine's own process: the first state holds all of the base."""
    base = other_base(tiny_base, tmp_path, small_deberta())
    with pytest.raises(ModelError, match=r"sees no examples.*kind = \"lora\""):
        federation.simulate("deberta", f"model.base={base}", "model.adapter.kind=full", workers=1)
    assert_nothing_was_released_or_charged(federation, "deberta")


def test_factors_that_cannot_be_trained_privately_are_refused_with_all_that_a_worker_knows(
    federation: Federation, tiny_base: Path, tmp_path: Path
) -> None:
    base, targets = other_base(tiny_base, tmp_path, small_deberta()), "model.adapter.targets=all-linear"
    with pytest.raises(EngineError, match=r"no gradient by example.*pos_key_proj.*other \[model\.adapter\] targets"):
        federation.simulate("targets", f"model.base={base}", targets, workers=1)
    assert_nothing_was_released_or_charged(federation, "targets")


def test_a_base_that_sees_the_next_token_is_refused_as_a_language_model(federation: Federation) -> None:
    with pytest.raises(EngineError, match=r"sees the token that it is to tell.*smollm2"):
        federation.simulate("both-ways", "model.task=causal-lm", "privacy.unit=none", workers=1)
    assert_nothing_was_released_or_charged(federation, "both-ways")


def test_an_adapter_on_a_network_without_weights_is_refused_with_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "images.toml").write_text(IMAGES, encoding="utf-8")
    images = Federation(folder=tmp_path, file=tmp_path / "images.toml", rows=tmp_path, cache=tmp_path / "cache")
    with pytest.raises(EngineError, match=r"nothing to adapt.*\[model\.adapter\] kind = \"full\""):
        images.simulate("images", workers=1)
    assert_nothing_was_released_or_charged(images, "images")
