"""Releases that write one text for another or fill gaps: what predict says, what transformers opens, a base for other tasks."""

import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForSeq2SeqLM
from released import make_released_of
from tiny import make_masked_base, make_pairs, make_rows, make_sequence_base, masked_experiment, sequence_experiment
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from fedrelease.cli import run
from fedrelease.errors import ExperimentError, ModelError
from fedrelease.experiment import Model
from fedrelease.models.bases import open_base
from fedrelease.models.tasks import build_model
from fedrelease.server.card import card, metadata
from fedrelease.server.exports import Exported, Wanted, export
from fedrelease.server.predict import predict
from fedrelease.server.store import Store

TEXT = "the film was very good"
GENTLE = {"bart": (), "t5": ("model.adapter.alpha=3",)}
"""T5 does not scale its attention, so that random factors as large as these would magnify rounding beyond what is allowed."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    folder, made = tmp_path_factory.mktemp("telling"), {}
    for kind in ("bart", "t5", "masked"):
        (folder / kind).mkdir()
        if kind == "masked":
            base, rows = make_masked_base(folder / kind / "base"), make_rows(folder / "m.csv", sites=("a", "b"), rows=8)
            made[kind] = make_released_of(folder / kind, masked_experiment(base, rows))
        else:
            base = make_sequence_base(folder / kind / "base", kind)
            rows = make_pairs(folder / "s.csv", sites=("a", "b"), rows=8)
            made[kind] = make_released_of(folder / kind, sequence_experiment(base, rows), *GENTLE[kind])
    return made


def exported(store: Store, out: Path, format: str = "hf", *, merged: bool = False) -> Exported:
    wanted = Wanted(format=format, merged=merged, out=out)
    return export(store, store.find("stable"), wanted, cache=store.folder / "cache")


def theirs(model: torch.nn.Module, folder: Path) -> str:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    row = tokenizer(TEXT, return_tensors="pt", return_token_type_ids=False)
    out = model.generate(**row, max_new_tokens=8, do_sample=False, num_beams=1)  # type: ignore[operator]
    return str(tokenizer.decode(out[0], skip_special_tokens=True))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers by an old name
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_peft_and_transformers_write_what_predict_writes(
    stores: dict[str, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, merged: bool
) -> None:
    done = exported(stores[kind], tmp_path / "out", merged=merged)
    monkeypatch.chdir(
        stores[kind].folder.parent
    )  # where the base's folder lies under the name that the file has for it
    auto = AutoModelForSeq2SeqLM if merged else AutoPeftModelForSeq2SeqLM
    (found,) = predict(stores[kind].find("stable"), [TEXT], cache=stores[kind].folder / "cache", tokens=8)
    assert done.variant.verdict == "pass"
    assert theirs(auto.from_pretrained(done.folder).eval(), done.folder) == found.document()["target"] != ""


def test_a_merged_encoder_is_a_base_for_a_classification(stores: dict[str, Store], tmp_path: Path) -> None:
    done = exported(stores["masked"], tmp_path / "out", merged=True)
    assert done.variant.verdict == "pass"
    base, before = (
        open_base(str(folder), cache=tmp_path) for folder in (done.folder, stores["masked"].folder.parent / "base")
    )
    assert base.tokenizer_digest != "" and base.files["tokenizer.json"] == before.files["tokenizer.json"]
    model, ids = build_model(base, Model(), seed=3), torch.tensor([[2, 14, 15, 3]])
    with torch.no_grad():
        ours = model.vectors(ids, torch.ones_like(ids))  # type: ignore[operator]
        plain = AutoModel.from_pretrained(done.folder)(input_ids=ids).last_hidden_state.mean(1)
        old = AutoModel.from_pretrained(before.folder)(input_ids=ids).last_hidden_state.mean(1)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)
    assert float((ours - old).norm()) > 0.01  # the released factors are in its weights


@pytest.mark.parametrize(
    ("kind", "format", "merged"),
    [("masked", "hf", False), ("masked", "onnx", False), ("t5", "onnx", False), ("t5", "safetensors", False)],
)
def test_other_forms_are_refused_by_name(
    stores: dict[str, Store], tmp_path: Path, kind: str, format: str, merged: bool
) -> None:
    with pytest.raises(ModelError, match="cannot be written so"):
        exported(stores[kind], tmp_path / "out", format, merged=merged)
    assert not (tmp_path / "out").exists()


def test_the_cards_say_what_each_is_for(stores: dict[str, Store]) -> None:
    found = {kind: metadata(store.find("stable"))["pipeline_tag"] for kind, store in stores.items()}
    assert found == {"bart": "text2text-generation", "t5": "text2text-generation", "masked": "feature-extraction"}
    pages = {kind: card(store.find("stable")) for kind, store in stores.items()}
    assert "It fills gaps" in pages["masked"] and "It writes as its sources do" in pages["t5"]
    assert not any("linear head" in page or "the labels" in page for page in pages.values())


def test_predict_tells_hidden_words_likeliest_first_and_refuses_a_text_that_hides_none(
    stores: dict[str, Store], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDRELEASE_CACHE", str(stores["masked"].folder / "cache"))
    asked = ["predict", "--store", str(stores["masked"].folder), "the [MASK] was [MASK]"]
    assert run([*asked, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["predictions"]
    scores = [[word["score"] for word in one] for one in found["masks"]]
    assert len(scores) == 2 and all(len(one) == 3 and one == sorted(one, reverse=True) for one in scores)
    assert run(asked) == 0 and capsys.readouterr().out.splitlines()[0].split() == ["text", "likely", "words"]
    with pytest.raises(ExperimentError, match="hides no word"):
        predict(stores["masked"].find("stable"), ["a film"], cache=stores["masked"].folder / "cache")
