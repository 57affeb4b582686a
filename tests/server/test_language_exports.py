"""Releases of a language model: what predict says, and what peft and transformers open."""

import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from released import make_released, make_released_language
from tiny import make_language_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedrelease.cli import run
from fedrelease.errors import ExperimentError, ModelError
from fedrelease.server.card import card, metadata
from fedrelease.server.exports import Exported, Wanted, export
from fedrelease.server.predict import predict
from fedrelease.server.store import Store

TEXT = "the film was very"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    folder = tmp_path_factory.mktemp("language")
    made = {}
    for kind in ("gpt2", "llama"):
        base = make_language_base(folder / kind / "base", kind)
        made[kind] = make_released_language(folder / kind, base)
    base = folder / "llama" / "base"
    whole = ("model.adapter.kind=full", "privacy.unit=none")
    (folder / "full").mkdir()
    made["full"] = make_released_language(folder / "full", base, *whole)
    (folder / "core").mkdir()
    made["core"] = make_released_language(folder / "core", base, "model.adapter.kind=lora-sb")
    return made


def exported(store: Store, out: Path, format: str = "hf", *, merged: bool = False) -> Exported:
    wanted = Wanted(format=format, merged=merged, out=out)
    return export(store, store.find("stable"), wanted, cache=store.folder / "cache")


def continuation(store: Store) -> str:
    (found,) = predict(store.find("stable"), [TEXT], cache=store.folder / "cache", tokens=12)
    return str(found.document()["continuation"])


def theirs(model: torch.nn.Module, folder: Path) -> str:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    row = tokenizer(TEXT, return_tensors="pt", return_token_type_ids=False)
    out = model.generate(**row, max_new_tokens=12, do_sample=False, pad_token_id=0)  # type: ignore[operator]
    return str(tokenizer.decode(out[0, row["input_ids"].shape[1] :], skip_special_tokens=True))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers by an old name
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_peft_alone_opens_the_adapter_on_its_base_and_says_what_predict_says(
    stores: dict[str, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    done = exported(stores[kind], tmp_path / "out")
    assert done.variant.verdict == "pass"
    assert json.loads((done.folder / "adapter_config.json").read_bytes())["task_type"] == "CAUSAL_LM"
    monkeypatch.chdir(
        stores[kind].folder.parent
    )  # where the base's folder lies under the name that the file has for it
    assert theirs(AutoPeftModelForCausalLM.from_pretrained(done.folder).eval(), done.folder) == continuation(
        stores[kind]
    )
    assert len(continuation(stores[kind])) > 0


@pytest.mark.parametrize("kind", ["full", "gpt2", "llama"])
def test_transformers_alone_opens_the_merged_model_and_says_what_predict_says(
    stores: dict[str, Store], tmp_path: Path, kind: str
) -> None:
    done = exported(stores[kind], tmp_path / "out", merged=True)
    assert done.variant.verdict == "pass"
    assert theirs(AutoModelForCausalLM.from_pretrained(done.folder).eval(), done.folder) == continuation(stores[kind])


@pytest.mark.parametrize(
    ("kind", "format", "merged", "says"),
    [
        ("llama", "onnx", False, "cannot be written so"),
        ("llama", "int8", False, "cannot be written so"),
        ("llama", "safetensors", False, "cannot be written so"),
        ("full", "hf", False, "has no adapter"),
        ("core", "hf", True, "no factors that peft knows"),
    ],
)
def test_other_forms_are_refused_by_name(
    stores: dict[str, Store], tmp_path: Path, kind: str, format: str, merged: bool, says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        exported(stores[kind], tmp_path / "out", format, merged=merged)
    assert not (tmp_path / "out").exists()


def test_the_card_says_text_generation_and_nothing_of_labels(stores: dict[str, Store], tmp_path: Path) -> None:
    release = stores["llama"].find("stable")
    assert metadata(release)["pipeline_tag"] == "text-generation" and metadata(release)["library_name"] == "peft"
    text = card(release)
    assert "linear head" not in text and "labels" not in text
    page = (exported(stores["llama"], tmp_path / "out").folder / "README.md").read_text(encoding="utf-8")
    assert "AutoPeftModelForCausalLM" in page and "pipeline_tag: text-generation" in page


def test_predict_prints_text_continuation_and_tokens(
    stores: dict[str, Store], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDRELEASE_CACHE", str(stores["llama"].folder / "cache"))
    asked = ["predict", "--store", str(stores["llama"].folder), TEXT, "--tokens", "3"]
    assert run([*asked, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["predictions"]
    assert found.keys() == {"text", "continuation", "tokens"} and found["text"] == TEXT
    assert found["tokens"] == len(found["continuation"].split()) <= 3
    assert run(asked) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["text", "continuation", "tokens"] and line.startswith(TEXT)


def test_tokens_are_for_releases_that_continue_texts(stores: dict[str, Store], tmp_path: Path, tiny_base: Path) -> None:
    labels = make_released(tmp_path, tiny_base)
    with pytest.raises(ExperimentError, match="continues no text"):
        predict(labels.find("stable"), [TEXT], cache=tmp_path / "cache", tokens=4)
    with pytest.raises(ExperimentError, match="no token is asked for"):
        predict(stores["llama"].find("stable"), [TEXT], cache=stores["llama"].folder / "cache", tokens=0)
