"""Bases: what a folder must hold, and what its digests cover."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from fedrelease.errors import ModelError
from fedrelease.models.bases import Pooling, open_base, read_pooling


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def declare(folder: Path, pooling: dict[str, object], *more: str) -> None:
    kinds = ["Transformer", "Pooling", *more]
    modules = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))


def test_a_base_is_known_by_the_digests_of_its_files(folder: Path, tmp_path: Path) -> None:
    base = open_base(str(folder), cache=tmp_path)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(base.files)
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert open_base(str(copy), cache=tmp_path).digest == base.digest


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"])
def test_one_byte_more_in_a_file_that_matters_changes_the_digest(folder: Path, tmp_path: Path, name: str) -> None:
    declare(folder, {"pooling_mode_mean_tokens": True})
    before = open_base(str(folder), cache=tmp_path).digest
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    assert open_base(str(folder), cache=tmp_path).digest != before


def test_a_file_that_changes_no_result_does_not_change_the_digest(folder: Path, tmp_path: Path) -> None:
    before = open_base(str(folder), cache=tmp_path).digest
    (folder / "README.md").write_text("hello")
    (folder / ".complete").write_text("x")
    assert open_base(str(folder), cache=tmp_path).digest == before


def test_the_tokenizers_digest_leaves_the_weights_out(folder: Path, tmp_path: Path) -> None:
    before = open_base(str(folder), cache=tmp_path)
    (folder / "model.safetensors").write_bytes(b"other weights")
    after = open_base(str(folder), cache=tmp_path)
    assert after.tokenizer_digest == before.tokenizer_digest
    assert after.digest != before.digest
    (folder / "tokenizer.json").write_bytes(b"{}")
    assert open_base(str(folder), cache=tmp_path).tokenizer_digest != before.tokenizer_digest


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        (["config.json"], "config.json"),
        (["model.safetensors"], r"\*.safetensors"),
        (["tokenizer.json", "tokenizer_config.json"], "tokenizer"),
    ],
)
def test_a_folder_without_a_part_of_a_base_is_refused(
    folder: Path, tmp_path: Path, gone: list[str], named: str
) -> None:
    for name in gone:
        (folder / name).unlink()
    with pytest.raises(ModelError, match=f"it has no {named}.*Rule:.*Try: save it with model.save_pretrained"):
        open_base(str(folder), cache=tmp_path)


def test_weights_in_pickle_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="never pickle"):
        open_base(str(folder), cache=tmp_path)


def test_a_name_that_is_nowhere_is_refused_with_the_names_that_are(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no base called no-such/base.*minilm.*give a folder"):
        open_base("no-such/base", cache=tmp_path)


def test_a_path_where_nothing_lies_is_refused_at_once_and_no_hub_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no folder \./cmudict-base.*fedrelease export --format hf --merged"):
        open_base("./cmudict-base", cache=tmp_path)


def test_an_alias_that_was_not_fetched_says_how_to_fetch_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"minilm is not in the cache.*fedrelease fetch minilm"):
        open_base("minilm", cache=tmp_path)


def test_a_base_that_declares_nothing_is_pooled_by_the_mean(folder: Path) -> None:
    assert read_pooling(folder) == Pooling(mode="mean", normalise=False)


@pytest.mark.parametrize(
    ("key", "mode"),
    [
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_cls_token", "first"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_lasttoken", "last"),
    ],
)
def test_a_declared_pooling_is_used(folder: Path, key: str, mode: str) -> None:
    every = dict.fromkeys(("pooling_mode_mean_tokens", "pooling_mode_cls_token", "pooling_mode_max_tokens"), False)
    declare(folder, {**every, key: True})
    assert read_pooling(folder) == Pooling(mode=mode, normalise=False)
    declare(folder, {**every, key: True}, "Normalize")
    assert read_pooling(folder) == Pooling(mode=mode, normalise=True)


@pytest.mark.parametrize(
    "pooling",
    [
        {},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_weightedmean_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_mean_sqrt_len_tokens": True},
    ],
)
def test_a_pooling_that_is_not_known_is_refused_and_not_replaced(folder: Path, pooling: dict[str, object]) -> None:
    declare(folder, pooling)
    with pytest.raises(ModelError, match=r"a pooling that is not known here.*delete modules.json"):
        read_pooling(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "7", "[7]", '[{"type": "a.Pooling"}]', '[{"type": "a.Pooling", "path": "x"}]']
)
def test_a_declaration_that_cannot_be_read_is_refused(folder: Path, text: str) -> None:
    (folder / "modules.json").write_text(text)
    with pytest.raises(ModelError, match=r"modules.json cannot be read"):
        read_pooling(folder)
