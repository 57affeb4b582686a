"""Bases whose weights are drawn on the spot: the same bytes everywhere, held to their pins."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load

from fedrelease.catalog import CATALOG
from fedrelease.data.source_target import source_ids
from fedrelease.data.tokens import load_tokenizer
from fedrelease.errors import FetchError
from fedrelease.experiment import Adapter, Model
from fedrelease.fetch import fetch, locate
from fedrelease.files import digest_bytes
from fedrelease.models.bases import open_base
from fedrelease.models.drawn import drawn_files
from fedrelease.models.sequences import build_sequence_model, written

ALIAS = "tiny-t5-bytes"
ENTRY = CATALOG[ALIAS]


def no_download(requirement: str, folder: Path, tell: object) -> Path:
    raise AssertionError(f"{requirement} was asked for")


def test_it_comes_out_as_it_is_pinned_every_time() -> None:
    pinned = {file.path: (file.sha256, file.size_bytes) for file in ENTRY.files}
    for found in (drawn_files(ALIAS), drawn_files(ALIAS)):
        assert {name: (digest_bytes(data), len(data)) for name, data in found.items()} == pinned


def test_it_is_written_into_the_cache_without_a_download_and_found_there(tmp_path: Path) -> None:
    folder = fetch(ALIAS, cache=tmp_path, download=no_download)
    assert locate(ALIAS, tmp_path) == folder
    assert json.loads((folder / ".complete").read_text())["package"] == "none: drawn on this machine"
    assert set(open_base(ALIAS, cache=tmp_path).files) == {file.path for file in ENTRY.files}


def test_another_result_than_the_pinned_one_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    other = replace(ENTRY, files=tuple(replace(file, sha256="0" * 64) for file in ENTRY.files))
    with pytest.raises(FetchError, match=r"config\.json has the wrong digest") as caught:
        fetch(ALIAS, cache=tmp_path, catalog={ALIAS: other}, download=no_download)
    assert "numpy" in caught.value.hint
    assert [path.name for path in (tmp_path / "fetched").iterdir()] == [".lock"]


def test_what_has_no_package_and_is_not_drawn_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="other is not drawn") as caught:
        fetch("other", cache=tmp_path, catalog={"other": replace(ENTRY, alias="other")})
    assert ALIAS in caught.value.rule


def test_weights_lie_evenly_within_what_their_variance_asks_for() -> None:
    """Between -sqrt(3 v) and sqrt(3 v) the variance is v: of wo, which reads 256 numbers, v = 1 / 256."""
    state = load(drawn_files(ALIAS)["model.safetensors"])
    inner = state["decoder.block.1.layer.2.DenseReluDense.wo.weight"]
    assert numpy.abs(inner).max() <= math.sqrt(3 / 256)
    assert inner.var() == pytest.approx(1 / 256, rel=0.05)
    assert (state["encoder.final_layer_norm.weight"] == 1).all()


def test_transformers_finds_every_weight_where_it_wants_it(tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    folder = fetch(ALIAS, cache=tmp_path)
    model, told = AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    assert sum(weight.numel() for weight in model.parameters()) == 706304


def test_it_reads_and_writes_bytes_and_a_text_ends_with_its_own_token(tmp_path: Path) -> None:
    """A byte's token is its number and three: the letter a is 97 + 3."""
    fetch(ALIAS, cache=tmp_path)
    base = open_base(ALIAS, cache=tmp_path)
    assert source_ids("ab", load_tokenizer(base.folder), 8) == [100, 101, 1]
    model = build_sequence_model(base, Model(task="seq2seq", adapter=Adapter(kind="full")), seed=7)
    assert len(written(model, [100, 101, 1], tokens=5, end=None)) == 5
