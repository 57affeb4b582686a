"""The compatibility table: made anew it is the page's, its refusals lead somewhere, and a fault is called one."""

import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from compatible import cells, section, tiny

from fedrelease.adapter import ADAPTER_KINDS, Adapter
from fedrelease.cli import run
from fedrelease.cli.compatibility_page import markdown_section
from fedrelease.client import together
from fedrelease.client.compatibility import engines
from fedrelease.client.compatibility.bases import MAKES
from fedrelease.client.compatibility.engines import ENGINES, Combination, Outcome, tried
from fedrelease.client.compatibility.table import Tried, Wanted, rows_of, with_nearest
from fedrelease.models import per_example
from fedrelease.tasks import TASKS

EVERY_TASK = pytest.mark.parametrize("task", sorted(TASKS))
LORA = Combination(task="text-classification", adapter=Adapter(kind="lora"))


@cache
def found(task: str) -> Sequence[Tried]:
    folder = Path(tempfile.mkdtemp(prefix="fedrelease-table-"))
    (rows,) = rows_of(Wanted(tasks=(task,)), folder, cache=folder)
    return rows


@EVERY_TASK
def test_the_page_says_what_is_found_by_trying(task: str) -> None:
    """After a change: fedrelease compatibility --format markdown, in the place of the page's tables."""
    assert section(task) == markdown_section(task, found(task))


@EVERY_TASK
def test_every_adapter_is_tried_on_every_make_of_base_that_reads_what_the_task_reads(task: str) -> None:
    makes = [name for name, make in MAKES.items() if make.reads == TASKS[task].reads]
    assert [(row.base, row.adapter) for row in found(task)] == [
        (base, kind) for base in makes for kind in ADAPTER_KINDS
    ]


@EVERY_TASK
def test_nothing_breaks_and_every_refusal_says_why_and_what_works_instead(task: str) -> None:
    for row in found(task):
        assert row.wrong == (), row
        refused = [one for one in row.outcomes.values() if one.status == "refused"]
        assert all(one.what and one.rule and one.hint and one.instead for one in refused), row


@EVERY_TASK
def test_the_adapter_that_is_named_instead_trains_privately_on_that_base(task: str) -> None:
    private = {(row.base, row.adapter) for row in found(task) if row.is_private}
    named = [(row.base, one.instead) for row in found(task) for name, one in row.outcomes.items() if name == "booked"]
    kinds = [(base, text.split('"')[1]) for base, text in named if text.startswith("[model.adapter]")]
    assert set(kinds) <= private


def test_the_page_has_a_table_for_each_task_and_no_other() -> None:
    assert sorted({cell.task for cell in cells()}) == sorted(TASKS)


def test_each_private_engine_is_the_one_of_some_combination() -> None:
    said = {cell.says for cell in cells()}
    assert {"formed", "booked", "formed, together"} <= said


def test_a_gradient_that_is_another_rows_is_called_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    note = per_example._note
    monkeypatch.setattr(per_example, "_note", lambda value, gradients: note(value, gradients.roll(1, 0)))
    outcomes = tried(LORA, tiny("bert"))
    assert outcomes["plain"].status == "works"
    assert outcomes["formed"].status == "wrong" and "are wrong" in outcomes["formed"].what


def test_a_site_that_ends_elsewhere_beside_others_is_called_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "clip_factors", lambda lengths, clip: torch.zeros_like(lengths))
    outcomes = tried(Combination(task="image-classification", adapter=Adapter(kind="full")), tiny("mlp"))
    assert outcomes["formed"].status == "works"
    assert outcomes["together"].status == "wrong" and "beside others" in outcomes["together"].what


def test_what_breaks_with_an_error_that_nobody_foresaw_is_wrong_and_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "build_model", lambda *_, **__: [][0])
    assert {one.status for name, one in tried(LORA, tiny("bert")).items() if name != "together"} == {"wrong"}


def made(base: str, adapter: str, *works: str) -> Tried:
    refused = Outcome(status="refused", what="w", rule="r", hint="h")
    outcomes = {name: Outcome(status="works") if name in works else refused for name in ENGINES}
    return Tried(task="causal-lm", base=base, adapter=adapter, outcomes=outcomes)


def test_the_nearest_is_another_adapter_then_no_privacy_then_another_base() -> None:
    rows = [made("a", "full", "plain"), made("a", "lora", "formed"), made("b", "full", "plain"), made("c", "lora-sb")]
    nearest = [row.outcomes["booked"].instead for row in with_nearest(rows)]
    other = 'another base, such as a, with [model.adapter] kind = "lora"'
    assert nearest == [
        '[model.adapter] kind = "lora"',
        '[model.adapter] kind = "lora"',
        '[privacy] unit = "none"',
        other,
    ]


def test_the_command_tells_each_engine_of_a_base_of_ones_own(
    cache: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["compatibility", "--base", str(tiny_base), "--task", "token-classification", "--adapter", "lora"]
    assert run([*given, "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["combinations"]
    assert (one["base"], one["adapter"]) == (str(tiny_base), "lora")
    assert {name: told["status"] for name, told in one["engines"].items()} == {
        "plain": "works",
        "formed": "works",
        "booked": "unused",
        "together": "unused",
    }


def test_layers_and_targets_are_those_that_are_given(
    cache: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["compatibility", "--base", str(tiny_base), "--task", "text-classification", "--adapter", "lora", "--json"]
    assert run([*given, "--layers", "last:2", "--targets", "all-linear"]) == 0
    assert run([*given, "--layers", "last:3"]) == 0
    told = capsys.readouterr().out
    assert told.count('"works"') == 2 and "model.adapter.layers is at most last:2 for this base" in told


def test_a_fault_ends_the_command_with_exit_code_1(
    cache: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note = per_example._note
    monkeypatch.setattr(per_example, "_note", lambda value, gradients: note(value, 0.5 * gradients))
    given = ["compatibility", "--base", str(tiny_base), "--task", "text-classification", "--adapter", "lora"]
    assert run(given) == 1
    assert "WRONG (1)" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--task", "--adapter", "--format"])
def test_a_name_that_is_not_known_is_refused_with_those_that_are(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compatibility", flag, "nonsense"]) == 2
    assert "it is one of" in capsys.readouterr().err
