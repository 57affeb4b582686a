import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer

from fedrelease import __version__
from fedrelease.cli import prepare, run
from fedrelease.cli.failure import report
from fedrelease.errors import BudgetExceeded, ExperimentError
from fedrelease.server.store import Store

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDRELEASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDRELEASE_DEBUG", raising=False)
    return tmp_path / "cache"


def fedrelease(arguments: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
    """The real program in a process of its own."""
    program = [sys.executable, "-W", "error", "-c", "from fedrelease.cli import main; main()", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def test_the_version_is_printed_without_anything_heavy() -> None:
    look = "import sys; from fedrelease.cli import run; run(['--version']); run(['simulate', '--help'])"
    heavy = "print(sorted({'torch', 'flwr', 'transformers', 'matplotlib', 'datasets'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", f"{look}; {heavy}"], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[0] == f"fedrelease {__version__}"
    assert ran.stdout.splitlines()[-1] == "[]"


def test_without_a_verb_the_help_is_shown_and_the_exit_code_is_2(capsys: Capture) -> None:
    assert run([]) == 2
    assert "Usage: fedrelease" in capsys.readouterr().err


def test_an_unknown_option_exits_2_and_points_to_the_help(capsys: Capture) -> None:
    assert run(["log", "--colour"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: No such option '--colour'\n  try:   fedrelease log --help\n"


def test_with_json_a_misuse_is_one_error_object_on_stdout(capsys: Capture) -> None:
    assert run(["log", "--colour", "--json"]) == 2
    said = capsys.readouterr()
    assert set(json.loads(said.out)["error"]) == {"what", "value", "rule", "hint"}
    assert said.err == ""


def test_json_after_two_dashes_is_a_text_and_no_option(capsys: Capture, tmp_path: Path) -> None:
    assert run(["predict", "--store", str(tmp_path / "none"), "--", "--json"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")


def test_an_error_says_what_was_given_the_rule_and_the_way_out(capsys: Capture) -> None:
    error = BudgetExceeded("no room", value=9.5, rule="epsilon <= 8", hint="fewer rounds")
    assert report(error, as_json=False) == 1
    assert capsys.readouterr().err == "error: no room\n  given: 9.5\n  rule:  epsilon <= 8\n  try:   fewer rounds\n"


def test_a_wrong_experiment_exits_2(capsys: Capture) -> None:
    assert report(ExperimentError("wrong"), as_json=True) == 2
    assert json.loads(capsys.readouterr().out) == {"error": {"what": "wrong", "value": None, "rule": "", "hint": ""}}


def test_a_full_disk_is_named_even_when_another_error_wraps_it(capsys: Capture) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "releases/tmp/x")
    wrapped = RuntimeError("could not write")
    wrapped.__cause__ = full
    assert report(wrapped, as_json=False) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: the disk is full",
        "  given: releases/tmp/x",
        "  try:   free some space, then run the same command again: it goes on where it stopped",
    ]


def test_a_folder_that_may_not_be_written_is_named(capsys: Capture) -> None:
    assert report(PermissionError(errno.EACCES, "Permission denied", "/closed/store"), as_json=False) == 1
    assert capsys.readouterr().err.startswith("error: permission denied\n  given: /closed/store\n")


def test_an_interruption_exits_130_with_one_line(capsys: Capture) -> None:
    assert report(KeyboardInterrupt(), as_json=False) == 130
    line = "stopped: nothing that was released is lost; run the same command again: it goes on where it stopped\n"
    assert capsys.readouterr().err == line


def test_an_error_that_nobody_foresaw_is_one_line_and_a_crash_log(capsys: Capture, cache: Path) -> None:
    try:
        raise KeyError("surprise")
    except KeyError as error:
        assert report(error, as_json=False) == 1
    said = capsys.readouterr().err
    (log,) = (cache / "crashes").iterdir()
    assert said.startswith("error: unexpected KeyError: 'surprise'\n")
    assert str(log) in said
    assert "Traceback" not in said
    assert "Traceback" in log.read_text()


def test_a_broken_pipe_of_a_worker_is_not_taken_for_a_reader_that_went_away(capsys: Capture) -> None:
    assert report(BrokenPipeError(errno.EPIPE, "Broken pipe"), as_json=False) == 1
    assert "unexpected BrokenPipeError" in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDRELEASE_DEBUG", "1")
    report(ExperimentError("wrong"), as_json=False)
    assert "ExperimentError: wrong" in capsys.readouterr().err


def test_an_end_of_input_inside_a_verb_is_an_error_and_no_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise EOFError

    monkeypatch.setattr(Store, "open", broken)
    assert run(["log"]) == 1


def test_the_exit_code_of_a_verb_is_the_exit_code_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_: object, **__: object) -> None:
        raise typer.Exit(3)

    monkeypatch.setattr(Store, "open", ended)
    assert run(["log"]) == 3


def test_the_environment_is_prepared_and_what_the_user_set_stays(cache: Path) -> None:
    environment = {"FLWR_TELEMETRY_ENABLED": "1"}
    prepare(environment)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "1"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_HOME"] == str(cache / "flwr")


def test_the_program_prints_pure_json_and_exits_0(example_store: Store) -> None:
    ran = fedrelease(["log", "--json", "--store", str(example_store.folder)])
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [release["version"] for release in json.loads(ran.stdout)["releases"]][-1] == "0.1.4"


def test_the_program_exits_1_where_there_is_no_store(tmp_path: Path) -> None:
    ran = fedrelease(["verify", "--json", "--store", str(tmp_path / "none")])
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["error"]["value"] == str(tmp_path / "none")


def test_a_reader_that_goes_away_ends_the_program_without_a_word(example_store: Store) -> None:
    program = [sys.executable, "-c", "from fedrelease.cli import main; main()"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        arguments = ["log", "--json", "--store", str(example_store.folder)]
        ran = subprocess.run([*program, *arguments], stdout=gone, stderr=subprocess.PIPE, check=False, timeout=120)
    assert (ran.returncode, ran.stderr) == (1, b"")
