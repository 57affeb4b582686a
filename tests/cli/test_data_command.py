"""``fedrelease data check`` as a user meets it: broken files, private texts, and the table of the documentation."""

import json
import sys
from pathlib import Path

import pytest
from tiny import make_rows

from fedrelease.cli import run

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from broken_files import BROKEN, Broken, said, table  # of another room's tests

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
Capture = pytest.CaptureFixture[str]
SECRET = "the patient Ms Example of 12 Sample Street has a private illness"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDRELEASE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def looked_at(broken: Broken, capsys: Capture) -> tuple[str, str]:
    broken.make(Path(broken.name))
    assert run(["data", "check", broken.name, *broken.flags, "--json"]) == 1
    return said(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_a_broken_file_ends_with_a_message_a_way_out_and_exit_code_1(broken: Broken, capsys: Capture) -> None:
    what, fix = looked_at(broken, capsys)
    assert len(what) > 10 and len(fix) > 5
    assert run(["data", "check", broken.name, *broken.flags]) == 1
    shown = capsys.readouterr()
    assert "unexpected" not in shown.err and "Traceback" not in shown.out + shown.err
    assert "error: " in shown.out + shown.err


def test_the_documentations_table_is_what_the_program_says(capsys: Capture) -> None:
    found = {broken.name: looked_at(broken, capsys) for broken in BROKEN}
    assert table(found) in DOCUMENTED, "print it anew: python tests/data/broken_files.py"


def test_a_good_file_ends_with_the_lines_to_paste(here: Path, capsys: Capture) -> None:
    make_rows(here / "rows.csv", sites=("a", "b"), rows=60)
    assert run(["data", "check", "rows.csv"]) == 0
    shown = capsys.readouterr().out
    assert "rows.csv: 120 rows, 3 columns" in shown
    assert "label (guessed)" in shown and "positive  60 of 120 rows, 50%" in shown
    assert shown.endswith('[data.partition]\nby = "column"\ncolumn = "site"\n')


def test_an_experiment_names_source_and_columns(here: Path, capsys: Capture) -> None:
    make_rows(here / "rows.csv", sites=("a", "b"), rows=60)
    (here / "my.toml").write_text('[model]\nlabels = ["negative", "positive"]\n[data]\nsource = "rows.csv"\n')
    assert run(["data", "check", "--experiment", "my.toml", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["text"] == {"column": "text", "guessed": False}
    assert told["sites"].keys() == {"a", "b"} and told["leaks"] == {"two_sites": 0, "training_and_holdout": 0}


def test_no_text_is_shown_unless_it_is_asked_for_and_then_its_beginning(here: Path, capsys: Capture) -> None:
    (here / "rows.csv").write_text(f"text,label\n{SECRET},x\n{SECRET},y\n{SECRET.upper()},x\n")
    for flags in ([], ["--json"]):
        assert run(["data", "check", "rows.csv", *flags]) == 0
        assert "patient" not in capsys.readouterr().out.lower()
        assert run(["data", "check", "rows.csv", "--show", *flags]) == 0
        shown = capsys.readouterr().out
        assert SECRET[:40] in shown and SECRET[:41] not in shown


@pytest.mark.parametrize("label", ["text", "label"])
def test_a_label_column_with_texts_in_it_is_no_way_to_see_them(here: Path, label: str, capsys: Capture) -> None:
    (here / "rows.csv").write_text("text,label\n" + "".join(f"{SECRET} {n},{SECRET} {n}\n" for n in range(60)))
    (here / "my.toml").write_text('[model]\nlabels = ["x", "y"]\n')
    for flags in ([], ["--json"], ["--experiment", "my.toml"]):
        run(["data", "check", "rows.csv", "--label", label, *flags])
        shown = capsys.readouterr()
        assert "patient" not in shown.out + shown.err


def test_without_anything_to_look_at_the_way_out_is_told(capsys: Capture) -> None:
    assert run(["data", "check"]) == 2
    assert "fedrelease data check FILE" in capsys.readouterr().err
