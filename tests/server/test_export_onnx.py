import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from released import make_released, make_released_images
from tiny import make_rows

from fedrelease.cli import run as cli
from fedrelease.server.exports import Exported, Wanted, export
from fedrelease.server.exports.onnx_file import open_session, run, write_onnx
from fedrelease.server.exports.plain import plain_model
from fedrelease.server.store import Store
from fedrelease.server.variants import variants_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Store:
    return make_released(tmp_path_factory.mktemp("released"), tiny_base, "model.head_scale=3")


@pytest.fixture(scope="module")
def folder(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "out"
    return exported(store, out, "onnx").folder


def exported(store: Store, out: Path, format: str) -> Exported:
    return export(store, store.find("stable"), Wanted(format=format, out=out), cache=store.folder / "cache")


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (1, 9), (3, 4), (5, 33), (2, 64)])
def test_the_graph_gives_torchs_logits_whatever_the_number_of_rows_and_tokens(
    store: Store, folder: Path, rows: int, tokens: int
) -> None:
    plain = plain_model(store.find("stable"), cache=folder)
    numbers = torch.Generator().manual_seed(rows * tokens)
    ids = torch.randint(4, 24, (rows, tokens), generator=numbers)
    mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (rows, 1), generator=numbers)).long()
    wanted = plain.module(ids, mask)
    assert float((run(open_session(folder / "model.onnx"), ids, mask) - wanted).abs().max()) <= 1e-4


def test_an_onnx_variant_is_checked_on_rows_of_many_lengths(store: Store, folder: Path) -> None:
    (variant,) = [variant for variant in variants_of(store.find("stable")) if variant.format == "onnx"]
    assert (variant.verdict, variant.rows) == ("pass", "64 rows: made up")
    assert variant.measured["largest_difference"] <= 1e-4


def test_the_graph_names_its_inputs_and_free_sizes_and_no_file_of_this_machine(folder: Path) -> None:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    assert {known.name: known.shape for known in session.get_inputs()} == {
        "input_ids": ["rows", "tokens"],
        "attention_mask": ["rows", "tokens"],
    }
    assert b".py" not in (folder / "model.onnx").read_bytes()


def test_a_graph_that_is_traced_twice_has_the_same_bytes(tmp_path: Path) -> None:
    plain = plain_model(make_released_images(tmp_path).find("stable"), cache=tmp_path / "cache")
    for name in "ab":
        write_onnx(plain, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_images_export_to_a_graph(tmp_path: Path) -> None:
    variant = exported(make_released_images(tmp_path), tmp_path / "out", "onnx").variant
    assert (variant.verdict, sorted(variant.files)) == ("pass", ["labels.json", "model.onnx"])


def test_eight_bits_are_measured_and_gated_and_too_few_rows_decide_nothing(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDRELEASE_CACHE", str(tmp_path / "cache"))
    rows = make_rows(tmp_path / "rows.csv", sites=("a",), rows=24)
    asked = ["export", "stable", "--format", "int8", "--rows", str(rows), "--out", str(tmp_path / "out"), "--quiet"]
    assert cli([*asked, "--json", "--store", str(store.folder)]) == 3
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["servable"], document["rows"]) == ("inconclusive", False, "24 rows: rows.csv")
    found = {(finding["gate"], finding["slice"]): finding for finding in document["findings"]}
    assert found["agreement", "overall"]["state"] == "inconclusive"  # of 24 rows, 24 alike leave 88.3 % possible
    assert found["size", "overall"]["state"] == "pass"
    assert found["quality", "overall"]["evidence"]["n"] == 24
    assert found["latency", "overall"]["severity"] == "warn"
    assert found["latency", "overall"]["evidence"]["timings"] == 60
    assert {"accuracy", "accuracy_before", "agreement", "median_seconds"} <= document["measured"].keys()
    assert "model.int8.onnx" in document["files"]
    assert "model.onnx" not in document["files"]
