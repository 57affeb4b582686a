"""The table of rules against attacks: what it says is what federations ended with."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pytest import approx

from fedrelease.errors import ExperimentError, StoreError
from fedrelease.simulations.bench import attack_runs, attacks
from fedrelease.simulations.bench.attack_runs import CELLS, Cell, Ended, Grid, run_grid
from fedrelease.simulations.bench.attack_tables import document, markdown, show, summarise
from fedrelease.simulations.bench.attack_tasks import ATTACKS, QUICK, RULES, TASKS
from fedrelease.strategies import STRATEGIES


def cell(rule: str, attack: str, accuracy: float, seed: int = 7) -> Cell:
    return Cell(rule=rule, attack=attack, seed=seed, accuracy=accuracy, backdoor=0.25, seconds=2.0)


CELLS_OF_ONE_SEED = [
    cell("fedavg", "none", 0.8),
    cell("fedavg", "sign-flip", 0.2),
    cell("median", "none", 0.5),
    cell("median", "sign-flip", 0.48),
]
CELLS_OF_TWO = [
    *CELLS_OF_ONE_SEED,
    cell("fedavg", "none", 0.6, seed=8),
    cell("fedavg", "sign-flip", 0.3, seed=8),
    cell("median", "none", 0.5, seed=8),
    cell("median", "sign-flip", 0.46, seed=8),
]


def test_what_a_rule_keeps_is_measured_by_its_own_accuracy_with_the_same_seed_without_an_attack() -> None:
    """fedavg: 0.2 / 0.8 and 0.3 / 0.6, in the mean 0.375; median: 0.96 and 0.92, in the mean 0.94, which is below 0.95."""
    found = summarise(CELLS_OF_TWO)
    averaging, median = found["fedavg", "sign-flip"], found["median", "sign-flip"]
    assert averaging.kept is not None and median.kept is not None
    assert (averaging.kept.mean, averaging.kept.low, averaging.kept.high) == (approx(0.375), approx(0.25), approx(0.5))
    assert (averaging.accuracy.mean, averaging.accuracy.low, averaging.seeds) == (approx(0.25), 0.2, (7, 8))
    assert (median.kept.mean, median.fails) == (approx(0.94), True)
    assert not summarise(CELLS_OF_ONE_SEED)["median", "sign-flip"].fails


def test_a_rule_that_was_never_run_without_an_attack_is_not_judged() -> None:
    found = summarise([cell("median", "sign-flip", 0.1)])["median", "sign-flip"]
    assert (found.kept, found.fails) == (None, False)


def test_the_table_marks_what_is_below_95_percent(capsys: pytest.CaptureFixture[str]) -> None:
    show(summarise(CELLS_OF_ONE_SEED), attacks.wide_console())
    out = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert out[:4] == [
        ["accuracy"],
        ["rule", "none", "sign-flip"],
        ["fedavg", "0.800", "0.200!"],
        ["median", "0.500", "0.480"],
    ]
    assert ["fedavg", "0.25!"] in out and ["median", "0.96"] in out


def test_several_seeds_are_shown_with_their_range_in_the_terminal_and_for_a_page() -> None:
    page = markdown(summarise([*CELLS_OF_TWO, cell("median", "backdoor", 0.5)]))
    assert "| `fedavg` | 0.700 (0.60-0.80) | - | 0.250 (0.20-0.30)! |" in page
    assert "| `median` | 0.500 (0.50-0.50) | 0.500 | 0.470 (0.46-0.48)! |" in page
    assert "share of clean accuracy kept, mean over 2 seeds and range" in page
    assert "| rule | none | backdoor |" in page


def test_the_document_says_which_rules_bear_what_averaging_does_not() -> None:
    told = document(CELLS_OF_ONE_SEED)
    assert told["keeps"] == {"fedavg": {"sign-flip": False}, "median": {"sign-flip": True}}
    assert len(json.loads(json.dumps(told))["table"]) == 4


def test_every_rule_of_the_table_exists_and_every_task_has_rows_for_the_server() -> None:
    assert set(RULES) <= set(STRATEGIES) and {"none", *QUICK} <= set(ATTACKS)
    assert all(task.data.server_holdout > 0 for task in TASKS.values())


def grid(**values: object) -> Grid:
    known = {"experiment": TASKS["digits"], "rules": ("fedavg", "median"), "kinds": ("none", "scaling"), "seeds": (7,)}
    return Grid(**{**known, **values})  # type: ignore[arg-type]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, str, str]]]:
    """Federations that end at once, and a list of them."""
    done: list[tuple[int, str, str]] = []

    def run(experiment: object, *_: object) -> Cell:
        place = (experiment.federation.seed, experiment.attack.kind, experiment.phases[0].strategy.name)  # type: ignore[attr-defined]
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(place)
        return Cell(rule=place[2], attack=place[1], seed=place[0], accuracy=0.5, backdoor=0.0, seconds=1.0)

    monkeypatch.setattr(attack_runs, "_run", run)
    yield done


def test_a_table_that_is_interrupted_goes_on_with_the_cells_that_it_lacks(
    ran: list[tuple[int, str, str]], tmp_path: Path
) -> None:
    """Three of four cells end, and a fourth line is torn; typed again, and with one more seed, only the others run."""
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid(), folder=tmp_path, watch=lambda ended: None)
    with (tmp_path / CELLS).open("a") as file:
        file.write('{"rule": "medi')
    (tmp_path / "federations-of-one-that-was-killed").mkdir()
    ran.clear()
    told: list[Ended] = []
    assert len(run_grid(grid(), folder=tmp_path, watch=told.append)) == 4
    assert ran == [(7, "scaling", "median")]
    assert [ended.left is None for ended in told] == [True, True, True, False]
    run_grid(grid(seeds=(7, 8), rules=("median",)), folder=tmp_path, watch=told.append)
    assert ran[1:] == [(8, "none", "median"), (8, "scaling", "median")]
    assert {path.name for path in tmp_path.iterdir()} == {".lock", CELLS}


SHORT = replace(TASKS["digits"], phases=(replace(TASKS["digits"].phases[0], rounds=2),))


@pytest.mark.parametrize("other", [{"share": 0.3}, {"experiment": SHORT}])
def test_cells_of_another_table_are_refused_with_what_differs(
    other: dict[str, object], ran: list[tuple[int, str, str]], tmp_path: Path
) -> None:
    run_grid(grid(rules=("median",)), folder=tmp_path, watch=lambda ended: None)
    with pytest.raises(StoreError, match="share: 0.2 -> 0.3|rounds: 6 -> 2"):
        run_grid(grid(**other), folder=tmp_path, watch=lambda ended: None)
    assert len(ran) == 2


@pytest.mark.slow
def test_a_run_writes_prints_and_tells_what_it_measured_and_typed_again_it_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDRELEASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(attacks.torch, "set_num_threads", lambda count: None)
    small = ["--rules", "fedavg", "--attacks", "sign-flip", "--sites", "5", "--rounds", "1", "--json"]
    assert attacks.main([*small, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert document == json.loads((tmp_path / "out" / "attacks.json").read_text(encoding="utf-8"))
    assert [(one["attack"], one["rule"]) for one in document["points"]] == [
        ("none", "fedavg"),
        ("sign-flip", "fedavg"),
    ]
    assert document["keeps"] == {"fedavg": {"sign-flip": False}}
    assert told.err.count("accuracy") == 2 and told.err.count("left") == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", "attacks.json", CELLS}, (
        "no federation stays"
    )
    assert attacks.main([*small, "--out", str(tmp_path / "out")]) == 0
    again = capsys.readouterr()
    assert (json.loads(again.out), again.err.count("was done already")) == (document, 2)


@pytest.mark.parametrize("typed", [["--rules", "fedavg,magic"], ["--attacks", "magic"], ["--task", "magic"]])
def test_what_there_is_not_is_refused(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        attacks.main(typed)
    assert "magic" in capsys.readouterr().err


def test_the_full_table_has_all_attacks_and_three_seeds_and_the_quick_one_two_and_one() -> None:
    quick, full = (attacks._grid(attacks._arguments(typed)) for typed in ([], ["--full"]))
    assert (quick.kinds, quick.seeds, quick.rules) == (("none", "scaling", "sign-flip"), (7,), RULES)
    assert (full.kinds, full.seeds, full.rules) == (ATTACKS, (7, 8, 9), RULES)


def test_a_share_out_of_bounds_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(attacks.torch, "set_num_threads", lambda count: None)
    with pytest.raises(ExperimentError):
        run_grid(grid(share=0.9), folder=tmp_path / "out", watch=lambda ended: None)
    assert attacks.main(["--share", "0.9", "--out", str(tmp_path / "out")]) == 2
    assert "attack.share" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
