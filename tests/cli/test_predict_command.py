import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from fedrelease.cli import run
from fedrelease.server.release import Release
from fedrelease.server.store import Store
from fedrelease.tasks.text_classification import LabelPrediction

Capture = pytest.CaptureFixture[str]


def label(
    release: Release, texts: Sequence[str], *, cache: Path, tokens: int | None = None, separator: str | None = None
) -> list[LabelPrediction]:
    return [LabelPrediction(text=text, label="positive", score=0.75) for text in texts]


@pytest.fixture
def where(example_store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    module = ModuleType("fedrelease.server.predict")
    module.predict = label  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    return ["--store", str(example_store.folder)]


def texts_of(capsys: Capture) -> list[str]:
    return [one["text"] for one in json.loads(capsys.readouterr().out)["predictions"]]


def test_predictions_carry_the_version_and_digest_that_made_them(
    where: list[str], example_store: Store, capsys: Capture
) -> None:
    assert run(["predict", "--json", *where, "a warm film"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "version": "0.1.4",
        "digest": example_store.find("stable").digest,
        "predictions": [{"text": "a warm film", "label": "positive", "score": 0.75}],
    }


def test_a_table_for_people_shows_label_score_and_text(where: list[str], capsys: Capture) -> None:
    assert run(["predict", "--release", "0.1.1", *where, "a film", "[b]x"]) == 0
    assert capsys.readouterr().out == "label     score  text\npositive  0.750  a film\npositive  0.750  [b]x\n"


def test_without_texts_the_lines_of_stdin_are_labelled(
    where: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\n two\n"))
    assert run(["predict", "--json", *where]) == 0
    assert texts_of(capsys) == ["one", " two"]


def test_the_lines_of_a_file_are_labelled(where: list[str], capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\ufeffgrün\nblau\n", encoding="utf-8")
    assert run(["predict", "--json", *where, "--file", str(tmp_path / "texts.txt")]) == 0
    assert texts_of(capsys) == ["grün", "blau"]


@pytest.mark.parametrize("arguments", [(), ("a text", "--file", "texts.txt")])
def test_no_text_or_texts_from_two_places_exit_2(where: list[str], arguments: tuple[str, ...]) -> None:
    assert run(["predict", *where, *arguments]) == 2


def test_a_file_that_is_not_there_or_not_text_is_named(where: list[str], capsys: Capture, tmp_path: Path) -> None:
    assert run(["predict", *where, "--file", str(tmp_path / "none.txt")]) == 1
    assert "none.txt" in capsys.readouterr().err
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfa")
    assert run(["predict", *where, "--file", str(tmp_path / "bytes")]) == 2


def test_an_unknown_release_exits_1(where: list[str]) -> None:
    assert run(["predict", "--release", "canary", *where, "text"]) == 1
