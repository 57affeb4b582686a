"""gate, diff, bisect, retract, log --graph and verify --recompute, as they are typed."""

import json
from pathlib import Path

import pytest
from example_store import make_store
from fake_sites import run as run_plan
from kept_stores import kept_store
from test_judging import DROP, experiment, setting_of

from fedrelease.cli import run
from fedrelease.cli.graph import graph_lines
from fedrelease.server.lifecycle import By, rollback, yank
from fedrelease.server.store import Store
from fedrelease.wording import plain

Capture = pytest.CaptureFixture[str]
BY = By(actor="ada", reason="complaints", time="2031-05-01T12:00:00+00:00")


@pytest.fixture
def example_store(tmp_path: Path) -> Store:
    """Releases 0.0.0 and 0.1.1 to 0.1.4; 0.1.3 is held."""
    return make_store(tmp_path / "store")


def typed(capsys: Capture, store: Store, *arguments: str, code: int = 0) -> str:
    assert run([*arguments, "--store", str(store.folder)]) == code
    return capsys.readouterr().out


def judged(folder: Path, **phase: str) -> Store:
    """Three rounds; 0.1.2 is worse and held."""
    setting = setting_of(folder, DROP, experiment(**phase), [])
    run_plan(setting)
    return setting.store


@pytest.mark.parametrize(
    ("arguments", "code", "verdict"),
    [
        (("0.1.3",), 0, "pass"),
        (("0.1.2",), 1, "fail"),
        (("0.1.2", "--now"), 1, "fail"),
        (("0.1.2", "--against", "0.1.2"), 0, "pass"),
    ],
)
def test_the_exit_code_of_gate_is_the_verdict(
    tmp_path: Path, capsys: Capture, arguments: tuple[str, ...], code: int, verdict: str
) -> None:
    store = judged(tmp_path / "s")
    assert json.loads(typed(capsys, store, "gate", *arguments, "--json", code=code))["verdict"] == verdict


def test_what_is_undecided_exits_3(tmp_path: Path, capsys: Capture) -> None:
    """316 of 400 a site after 320: a point worse, on too few items to tell from two."""
    right = {"0.0.0": 300, "0.1.1": 320, "0.1.2": 316}
    setting = setting_of(tmp_path / "s", right, experiment(rounds=2), [])
    run_plan(setting)
    assert typed(capsys, setting.store, "gate", "0.1.2", code=3).startswith("0.1.2  held: quality")


def test_gate_keeps_a_new_report_once_and_an_equal_one_not_at_all(tmp_path: Path, capsys: Capture) -> None:
    store = judged(tmp_path / "s")
    kept = [len(list(store.folder.glob("attach/*/gate-report.*")))]
    for against in ((), ("--against", "0.0.0"), ("--against", "0.0.0")):
        typed(capsys, store, "gate", "0.1.3", *against)
        kept.append(len(list(store.folder.glob("attach/*/gate-report.*"))))
    assert kept == [3, 3, 4, 4]


def test_gate_prints_the_table_and_writes_the_page(tmp_path: Path, capsys: Capture) -> None:
    store = judged(tmp_path / "s")
    said = typed(capsys, store, "gate", "0.1.2", "--html", str(tmp_path / "gates.html"), code=1)
    assert said.startswith("0.1.2  held: quality") and "right_to_wrong" not in said
    assert "Gates of 0.1.2" in (tmp_path / "gates.html").read_text(encoding="utf-8")


def test_gate_refuses_what_goes_not_together(example_store: Store, capsys: Capture) -> None:
    typed(capsys, example_store, "gate", "0.1.2", "--now", "--against", "0.1.1", code=2)
    typed(capsys, example_store, "gate", "0.1.2", "--texts", "texts.txt", code=2)


def test_after_a_revert_the_line_branches_and_moves_stand_between(tmp_path: Path, capsys: Capture) -> None:
    store = judged(tmp_path / "s", on_held="revert")
    with store.lock():
        rollback(store, "stable", by=BY)
    lines = typed(capsys, store, "log", "--graph").splitlines()
    assert lines[0].endswith("rollback  stable: 0.1.1  ada: complaints")
    assert lines[1] == "*  0.1.3  pilot  round 3  released  [candidate]"
    assert lines[2].startswith("| x  0.1.2  pilot  round 2  held: quality against anchor 0.1.1: -10.0 points")
    assert lines[3:] == ["|/", "*  0.1.1  pilot  round 1  released  [stable]", "*  0.0.0  base  released"]


def test_a_terminal_gets_lines_instead_of_ascii(tmp_path: Path) -> None:
    store = judged(tmp_path / "s", on_held="revert")
    lines = list(graph_lines(store, drawn=True))
    assert [line.split("  ")[0] for line in lines] == ["●", "│ ○", "├─╯", "●", "●"]
    assert all(line.isascii() for line in graph_lines(store, drawn=False))


def test_a_retraction_is_a_branch_of_its_own(tmp_path: Path, capsys: Capture) -> None:
    store = kept_store(tmp_path / "s")
    typed(capsys, store, "retract", "c", "--reason", "left")
    heads = [line.partition("  pilot")[0] for line in typed(capsys, store, "log", "--graph").splitlines()]
    assert heads == [
        "*  0.1.6",
        "*  0.1.5",
        "*  0.1.4",
        "| *  0.1.3",
        "| *  0.1.2",
        "| *  0.1.1",
        "|/",
        "*  0.0.0  base  released",
    ]


def test_a_release_that_the_log_lost_is_drawn_where_its_version_belongs(example_store: Store, capsys: Capture) -> None:
    (example_store.folder / "log.jsonl").unlink()
    lines = typed(capsys, example_store, "log", "--graph").splitlines()
    assert [line.split()[1] for line in lines] == ["0.1.4", "0.1.3", "0.1.2", "0.1.1", "0.0.0"]


def test_the_log_says_why_a_release_was_held_or_yanked(tmp_path: Path, capsys: Capture) -> None:
    store = judged(tmp_path / "s")
    with store.lock():
        yank(store, "0.1.1", by=By(actor="ada", reason="wrong \x1b[31mlabels"))
    said = typed(capsys, store, "log")
    assert "0.1.2  held: quality against anchor 0.1.1" in said
    assert plain("0.1.1  yanked: wrong \x1b[31mlabels") in said and "\x1b" not in said
    document = json.loads(typed(capsys, store, "log", "--json"))
    assert [release["yanked"] for release in document["releases"]].count(None) == 3
    assert document["moves"][-1]["event"] == "yank" and document["releases"][1]["seconds"] is not None


def test_diff_prints_intervals_tensors_and_gates(tmp_path: Path, capsys: Capture) -> None:
    store = judged(tmp_path / "s")
    said = typed(capsys, store, "diff", "0.1.1", "0.1.2", "--tensors", "1")
    assert said.startswith("0.1.1 -> 0.1.2\n") and "tensors: 2 moved" in said and "and 1 more" in said
    assert "-0.100  -0.1" in said and "quality overall" in said and "pass -> fail" in said
    document = json.loads(typed(capsys, store, "diff", "0.1.1", "0.1.2", "--json"))
    assert (document["before"], document["after"], len(document["tensors"])) == ("0.1.1", "0.1.2", 2)


def test_bisect_runs_the_command_and_tells_what_changed(example_store: Store, capsys: Capture) -> None:
    check = 'test "$FEDRELEASE_RELEASE" = {} && case {} in 0.1.3|0.1.4) exit 1;; esac'
    arguments = ("bisect", "--good", "0.0.0", "--bad", "stable", "--check", check)
    said = typed(capsys, example_store, *arguments)
    assert said.startswith("0.1.3 is the first bad release; 0.1.2 was good\n") and "tensors: 1 moved" in said
    assert json.loads(typed(capsys, example_store, *arguments, "--json"))["first_bad"] == "0.1.3"


@pytest.mark.parametrize(("check", "code"), [("exit 125", 3), ("no-such-command", 1), ("kill -9 $$", 1)])
def test_a_check_that_cannot_tell_or_cannot_run_does_not_accuse_a_release(
    example_store: Store, capsys: Capture, check: str, code: int
) -> None:
    said = typed(capsys, example_store, "bisect", "--good", "0.0.0", "--bad", "0.1.4", "--check", check, code=code)
    assert "first bad" not in said


def test_retract_says_what_it_did_and_what_it_does_not(tmp_path: Path, capsys: Capture) -> None:
    store = kept_store(tmp_path / "s")
    said = typed(capsys, store, "retract", "c", "--reason", "left", "--actor", "ada")
    assert said.startswith("0.1.4  rebuilds 0.1.1\n")
    assert "no unlearning" in said and "stays spent" in said
    assert 'stable still points at 0.1.3: fedrelease promote 0.1.6 --to stable --reason "without c"' in said
    assert "0.1.4  rebuilds 0.1.1 without c: left" in typed(capsys, store, "log")


def test_retract_as_json(tmp_path: Path, capsys: Capture) -> None:
    document = json.loads(typed(capsys, kept_store(tmp_path / "s"), "retract", "c", "--json"))
    assert document["rebuilt"][0] == {"replaced": "0.1.1", "version": "0.1.4"}
    assert (document["sites"], document["head"], document["held"]) == (["c"], "0.1.6", [])


def test_verify_recompute_counts_and_exits_1_when_something_differs(tmp_path: Path, capsys: Capture) -> None:
    store = kept_store(tmp_path / "s")
    said = typed(capsys, store, "verify", "--recompute")
    assert said.splitlines()[-4:] == ["0.1.1  same", "0.1.2  same", "0.1.3  same", "rounds: 3 came out the same"]
    (store.folder / "spool" / "0.1.2" / "b.json").unlink()
    document = json.loads(typed(capsys, store, "verify", "--recompute", "--json", code=1))
    assert (document["ok"], document["problems"]) == (False, [])
    assert [one["outcome"] for one in document["recomputed"]] == ["same", "failed", "same"]


def test_verify_without_recompute_says_nothing_of_rounds(example_store: Store, capsys: Capture) -> None:
    assert "recomputed" not in json.loads(typed(capsys, example_store, "verify", "--json"))
    assert "rounds: 4 without kept updates" in typed(capsys, example_store, "verify", "--recompute")
