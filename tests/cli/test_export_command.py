import json
from pathlib import Path

import pytest
from released import make_released, make_released_images

from fedrelease.cli import run
from fedrelease.server.store import Store

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Store:
    return make_released(tmp_path_factory.mktemp("released"), tiny_base)


@pytest.fixture
def where(released: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return ["--store", str(released.folder)]


def test_an_export_tells_its_folder_files_and_verdict_and_show_lists_it(where: list[str], capsys: Capture) -> None:
    assert run(["export", "stable", "--format", "safetensors", *where]) == 0
    told = capsys.readouterr()
    assert "0.1.1 as safetensors in export/tiny-0.1.1-safetensors" in told.out
    assert told.out.splitlines()[-1] == "pass: it may stand in for the release"
    assert "writing one file of weights" in told.err
    assert Path("export/tiny-0.1.1-safetensors/model.safetensors").is_file()
    assert run(["show", *where]) == 0
    assert "safetensors  yes       pass" in capsys.readouterr().out


def test_the_document_of_an_export_is_what_show_lists(where: list[str], capsys: Capture) -> None:
    assert run(["export", "0.1.1", "--format", "safetensors", "--out", "flat", "--json", "--quiet", *where]) == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert told.err == ""
    assert (document["version"], document["path"], document["verdict"]) == ("0.1.1", "flat", "pass")
    assert run(["show", "--json", *where]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["variants"]
    assert listed == {name: value for name, value in document.items() if name in listed}


def test_a_format_that_is_none_and_a_folder_of_others_are_refused(where: list[str], capsys: Capture) -> None:
    assert run(["export", "stable", "--format", "onxx", *where]) == 2
    assert "did you mean onnx" in capsys.readouterr().err
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    assert run(["export", "stable", "--format", "safetensors", "--out", "mine", *where]) == 1
    assert "holds something else" in capsys.readouterr().err


def test_a_variant_that_fails_its_gate_is_written_and_recorded_as_not_servable(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight bits make a network of 131 numbers larger: scales and casts weigh more than it does."""
    monkeypatch.chdir(tmp_path)
    where = ["--store", str(make_released_images(tmp_path).folder)]
    assert run(["export", "stable", "--format", "int8", *where]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "fail: not servable"
    assert Path("export/tiny-0.1.1-int8/model.int8.onnx").is_file()
    assert run(["show", *where]) == 0
    assert "int8    no        fail" in capsys.readouterr().out


def test_rows_that_are_not_there_are_named(where: list[str], capsys: Capture) -> None:
    assert run(["export", "stable", "--format", "safetensors", "--rows", "none.csv", *where]) == 1
    assert "none.csv does not exist" in capsys.readouterr().err
    assert not Path("export/tiny-0.1.1-safetensors").exists()


def test_a_card_goes_to_stdout_or_a_file_and_over_nothing_else(where: list[str], capsys: Capture) -> None:
    assert run(["card", "stable", *where]) == 0
    text = capsys.readouterr().out
    assert text.startswith("---\nlibrary_name: peft\n")
    for _ in range(2):
        assert run(["card", "stable", "--out", "deep/CARD.md", *where]) == 0
    assert Path("deep/CARD.md").read_text(encoding="utf-8") == text
    Path("deep/CARD.md").write_text("mine")
    assert run(["card", "stable", "--out", "deep/CARD.md", *where]) == 1
    assert Path("deep/CARD.md").read_text() == "mine"


def test_the_document_of_a_card_holds_its_text_and_metadata(where: list[str], capsys: Capture) -> None:
    assert run(["card", "stable", "--json", *where]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["metadata"]["pipeline_tag"] == "text-classification"
    assert document["card"].startswith("---\n")
