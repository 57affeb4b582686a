import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from other_bases import other_base, small_gpt2, small_llama
from released import make_released, make_released_images
from safetensors.torch import load_file

from fedrelease.data.sites import prepare_sites
from fedrelease.data.tokens import load_tokenizer
from fedrelease.errors import ExperimentError, ModelError, StoreError
from fedrelease.models.bases import Pooling
from fedrelease.models.classifier import pool
from fedrelease.models.precision import matmul
from fedrelease.server.exports import Exported, Wanted, export
from fedrelease.server.exports.folder import MARKER
from fedrelease.server.exports.plain import plain_model
from fedrelease.server.predict import predict
from fedrelease.server.recipe import recipe
from fedrelease.server.release import experiment_of
from fedrelease.server.released_model import released_model, same_base
from fedrelease.server.store import Store
from fedrelease.server.variants import variants_of

TEXT = "the film was very good and warm"
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "fedrelease":
            raise ImportError("fedrelease is not to be imported here")
sys.meta_path.insert(0, Refuse())
for name in [name for name in sys.modules if name.partition(".")[0] == "fedrelease"]:
    del sys.modules[name]
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Store:
    return make_released(tmp_path_factory.mktemp("released"), tiny_base, "model.head_scale=3")


def exported(store: Store, out: Path, format: str, *, merged: bool = False) -> Exported:
    return export(
        store, store.find("stable"), Wanted(format=format, merged=merged, out=out), cache=store.folder / "cache"
    )


def released_logits(store: Store, text: str) -> torch.Tensor:
    """Of the model that predict uses."""
    release = store.find("stable")
    base = same_base(release, store.folder / "cache")
    row = load_tokenizer(base.folder)(
        [text], truncation=True, max_length=64, return_attention_mask=False, return_token_type_ids=False
    )
    ids = torch.tensor(row["input_ids"])
    with torch.no_grad(), matmul("highest"):
        return released_model(release, base)(ids, torch.ones_like(ids))[0]


def recipe_of(folder: Path) -> str:
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_cards_recipes_give_the_logits_of_predict_in_a_process_without_fedrelease(
    store: Store, tmp_path: Path, tiny_base: Path
) -> None:
    """One process for both recipes: it starts with the folder of each, and the hook that refuses our package."""
    folders = [exported(store, tmp_path / f"out-{merged}", "hf", merged=merged).folder for merged in (False, True)]
    code = ALONE
    for folder in folders:
        recipe = recipe_of(folder).replace("a warm and funny film", TEXT)
        code += f"import os; os.chdir({str(folder)!r})\n{recipe.replace(repr_of(tiny_base.name), repr(str(tiny_base)))}"
        code += "print(logits[0].tolist())\n"
    code += "assert not [name for name in sys.modules if name.startswith('fedrelease')]"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    adapter, merged = (torch.tensor(json.loads(line)) for line in done.stdout.splitlines()[-2:])
    wanted = released_logits(store, TEXT)
    assert torch.allclose(adapter, wanted, rtol=0, atol=1e-5)
    assert torch.allclose(merged, wanted, rtol=0, atol=1e-5)
    said = predict(store.find("stable"), [TEXT], cache=store.folder / "cache")[0]
    assert said.label == ("negative", "positive")[int(merged.argmax())]
    assert said.score == pytest.approx(float(merged.softmax(0).max()), abs=1e-5)


def repr_of(name: str) -> str:
    return f'"{name}"'


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("mode", ["mean", "first", "max", "last"])
def test_a_recipe_has_at_most_twelve_lines_and_pools_one_text_as_the_model_does(mode: str, merged: bool) -> None:
    pooling = Pooling(mode=mode, normalise=True)
    lines = [line for line in recipe("some/base", pooling, max_length=64, merged=merged).splitlines() if line]
    assert len(lines) <= 12
    assert not any("fedrelease" in line for line in lines)
    hidden = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(1))
    expression = lines[-1].removeprefix("logits = ").partition(" @ ")[0]
    places = {"torch": torch, "hidden": hidden}
    assert torch.allclose(eval(expression, places), pool(hidden, torch.ones(1, 5, dtype=torch.int64), pooling))


def test_an_adapters_factors_matter_to_the_logits_that_the_tests_compare(store: Store, tiny_base: Path) -> None:
    """Else a recipe that forgot the adapter would pass."""
    plain = plain_model(store.find("stable"), cache=store.folder / "cache")
    bare = load_file(tiny_base / "model.safetensors")
    changed = [name for name, value in plain.module.encoder.state_dict().items() if not torch.equal(value, bare[name])]
    assert changed == [f"encoder.layer.1.attention.self.{part}.weight" for part in ("query", "value")]


@pytest.mark.parametrize("make", [small_gpt2, small_llama])
def test_bases_of_other_makes_export_as_adapter_and_merged(
    tmp_path: Path, tiny_base: Path, make: Callable[[], torch.nn.Module]
) -> None:
    """GPT-2 keeps its weights the other way round, and neither has one list of names with BERT."""
    with torch.random.fork_rng():
        torch.manual_seed(1)  # some draws of a base give logits so large that float32 is not exact to 1e-5
        base = other_base(tiny_base, tmp_path, make())
    store = make_released(tmp_path, base)
    for merged in (False, True):
        variant = exported(store, tmp_path / f"out-{merged}", "hf", merged=merged).variant
        assert variant.verdict == "pass"
        assert variant.measured["largest_difference"] <= 1e-5


def test_exporting_twice_gives_the_same_bytes(store: Store, tmp_path: Path) -> None:
    for format, merged in (("hf", False), ("hf", True), ("safetensors", False)):
        first, second = (exported(store, tmp_path / f"{format}-{merged}-{n}", format, merged=merged) for n in "ab")
        assert first.variant.files == second.variant.files
        assert (first.folder / MARKER).read_bytes() == (second.folder / MARKER).read_bytes()


def test_the_flat_file_holds_every_weight_and_its_json_what_they_mean(store: Store, tmp_path: Path) -> None:
    folder = exported(store, tmp_path / "flat", "safetensors").folder
    tensors, plain = load_file(folder / "model.safetensors"), plain_model(store.find("stable"), cache=tmp_path)
    assert set(tensors) == set(plain.module.state_dict())
    assert not any("lora" in name for name in tensors)
    assert torch.equal(tensors["head.weight"], 3 * store.find("stable").state()["head.weight"])  # head_scale = 3
    meaning = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    assert (meaning["labels"], meaning["pooling"], meaning["max_length"]) == (["negative", "positive"], "mean", 64)


def test_an_export_is_recorded_with_the_sha256_of_each_of_its_files(store: Store, tmp_path: Path) -> None:
    done = exported(store, tmp_path / "out", "hf")
    (kept,) = [variant for variant in variants_of(store.find("stable")) if variant.format == "hf"]
    assert kept == done.variant
    assert set(kept.files) >= {"README.md", "adapter_config.json", "adapter_model.safetensors", "head.safetensors"}
    assert kept.servable
    assert json.loads((done.folder / MARKER).read_bytes())["files"] == kept.files


def test_an_untouched_export_is_replaced_and_nothing_else_is(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported(store, out, "hf")
    exported(store, out, "hf")
    with pytest.raises(StoreError, match="holds something else"):
        exported(store, out, "safetensors")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds something else"):
        exported(store, out, "hf")
    assert (out / "notes.txt").read_text() == "mine"


def test_an_export_that_breaks_off_leaves_nothing(store: Store, tmp_path: Path) -> None:
    def refuse(folder: Path) -> None:
        assert (folder / MARKER).is_file()  # a signature is made over the finished folder
        raise StoreError("no key")

    wanted = Wanted(format="safetensors", out=tmp_path / "deep" / "out", finish=refuse)
    with pytest.raises(StoreError, match="no key"):
        export(store, store.find("stable"), wanted, cache=tmp_path)
    assert list((tmp_path / "deep").iterdir()) == []


def test_what_is_signed_is_the_folder_that_appears_and_it_can_be_exported_again(store: Store, tmp_path: Path) -> None:
    wanted = Wanted(format="safetensors", out=tmp_path / "out", finish=lambda folder: (folder / "model.sig").touch())
    for _ in range(2):
        done = export(store, store.find("stable"), wanted, cache=tmp_path)
    assert (done.folder / "model.sig").is_file()
    assert "model.sig" not in done.variant.files


@pytest.mark.parametrize(
    ("format", "merged", "error", "says"),
    [
        ("onxx", False, ExperimentError, "did you mean onnx"),
        ("onnx", True, ExperimentError, "--merged goes with --format hf"),
    ],
)
def test_a_format_that_is_none_is_refused_with_those_that_are(
    store: Store, tmp_path: Path, format: str, merged: bool, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        exported(store, tmp_path / "out", format, merged=merged)


def test_without_the_extra_onnx_is_refused_by_its_name(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(ExperimentError, match=r"onnxruntime is not installed.*fedrelease\[export\]"):
        exported(store, tmp_path / "out", "int8")


def test_images_have_no_hf_form_and_are_told_which_they_have(tmp_path: Path) -> None:
    store = make_released_images(tmp_path)
    with pytest.raises(ModelError, match="transformers has no class for.*--format onnx"):
        exported(store, tmp_path / "out", "hf")
    variant = exported(store, tmp_path / "flat", "safetensors").variant
    assert variant.verdict == "pass"


def test_a_release_of_every_weight_is_exported_merged_only(tmp_path: Path, tiny_base: Path) -> None:
    store = make_released(tmp_path, tiny_base, "model.adapter.kind=full", "privacy.unit=none")
    with pytest.raises(ModelError, match="has no adapter.*--merged"):
        exported(store, tmp_path / "out", "hf")
    assert exported(store, tmp_path / "out", "hf", merged=True).variant.measured["largest_difference"] <= 1e-5


def test_the_servers_hold_out_is_what_an_export_is_checked_on_where_it_is_prepared(
    tmp_path: Path, tiny_base: Path
) -> None:
    store = make_released(tmp_path, tiny_base, "data.server_holdout=0.25")
    release, cache = store.find("stable"), store.folder / "cache"
    assert exported(store, tmp_path / "before", "hf").variant.rows == "64 rows: made up"
    base = same_base(release, cache)
    prepare_sites(experiment_of(release), base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=cache)
    assert exported(store, tmp_path / "after", "hf").variant.rows == "4 rows: the server's hold-out"  # 0.25 of 16
