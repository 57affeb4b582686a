"""Bases that are converted once: pinned results, whole or not at all."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedrelease.cache import cache_folder
from fedrelease.errors import ModelError
from fedrelease.fetch import fetch
from fedrelease.models import converted as module
from fedrelease.models.bases import open_base
from fedrelease.models.converted import CONVERSIONS, Conversion, converted

SMALL = Conversion(file="x.gguf", config={}, tokenizer={}, pinned={"model.safetensors": "0" * 64})


def test_a_base_that_is_fetched_as_it_is_used_is_not_converted(tmp_path: Path) -> None:
    assert converted("minilm", tmp_path, tmp_path) == tmp_path


def test_what_is_missing_and_the_extra_that_brings_it_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = replace(CONVERSIONS["smollm2"], needed=("accelerate", "no_such_package"))
    monkeypatch.setattr(module, "CONVERSIONS", {"smollm2": needs})
    with pytest.raises(ModelError, match="no_such_package is not installed") as caught:
        converted("smollm2", tmp_path, tmp_path)
    assert "fedrelease[lm]" in str(caught.value)


def test_another_result_than_the_pinned_one_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(wanted: Conversion, fetched: Path, into: Path) -> None:
        into.mkdir()
        (into / "model.safetensors").write_bytes(b"other")

    monkeypatch.setattr(module, "CONVERSIONS", {"small": SMALL})
    monkeypatch.setattr(module, "_convert", convert)
    with pytest.raises(ModelError, match=r"model\.safetensors has another digest"):
        converted("small", tmp_path, tmp_path)
    assert not list((tmp_path / "bases").glob("s*"))


def test_another_pin_or_configuration_makes_another_folder() -> None:
    assert replace(SMALL, pinned={"model.safetensors": "1" * 64}).digest != SMALL.digest
    assert replace(SMALL, config={"bos_token_id": 1}).digest != SMALL.digest


@pytest.mark.slow
def test_smollm2_comes_out_as_it_is_pinned_and_tells_the_next_token(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    folder = converted("smollm2", fetch("smollm2", cache=cache_folder()), tmp_path)
    assert set(CONVERSIONS["smollm2"].pinned) < {path.name for path in folder.iterdir()}
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(open_base(str(folder), cache=tmp_path).folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    row = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        best = model(**row).logits[0, -1].argmax()
    assert tokenizer.decode([int(best)]) == " Paris"
