"""The ledger: what was charged stays charged, whatever happens to the process or the file."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from reference import pooled_epsilon

from fedrelease.accounting import spent
from fedrelease.client import ledger as ledger_module
from fedrelease.client.ledger import Entry, Ledger, total
from fedrelease.errors import BudgetExceeded, PrivacyError
from fedrelease.files import append_durably

ENTRY = Entry(
    charge="c1",
    pool="train",
    split="s1",
    noise_multiplier=2.0,
    sample_rate=1.0,
    steps=1,
    accountant="prv",
    delta=1e-5,
    federation="tiny",
    version="0.0.1",
)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "site" / "ledger.jsonl")


def file_of(ledger: Ledger) -> Path:
    return ledger._path


def charges(ledger: Ledger) -> list[str]:
    return [entry.charge for entry in ledger.entries()]


def three(ledger: Ledger) -> Path:
    for name in ("c1", "c2", "c3"):
        ledger.charge(replace(ENTRY, charge=name), budget=100.0)
    return file_of(ledger)


def test_a_ledger_that_was_never_charged_is_empty_and_has_no_file(ledger: Ledger) -> None:
    assert ledger.entries() == ()
    assert not file_of(ledger).exists()


def test_what_was_charged_is_read_back_as_it_was(ledger: Ledger) -> None:
    entries = [ENTRY, replace(ENTRY, charge="c2", noise_multiplier=0.1 + 0.2, sample_rate=1 / 3, steps=7)]
    for entry in entries:
        ledger.charge(entry, budget=1e6)
    assert ledger.entries() == tuple(entries)


def test_the_standing_tells_the_round_and_the_whole(ledger: Ledger) -> None:
    first = ledger.charge(ENTRY, budget=100.0)
    second = ledger.charge(replace(ENTRY, charge="c2"), budget=100.0)
    assert first.epsilon_round == first.epsilon_total == second.epsilon_round
    assert first.epsilon_total < second.epsilon_total < 2 * first.epsilon_total  # rounds compose, they do not add up
    assert second.epsilon_total == spent([ENTRY.segment()] * 2, delta=1e-5)


def test_epsilon_does_not_start_anew_with_another_process_or_federation(ledger: Ledger) -> None:
    three(ledger)
    other = Ledger(file_of(ledger)).charge(replace(ENTRY, charge="c4", federation="other", version="9"), budget=100.0)
    assert other.epsilon_total == spent([ENTRY.segment()] * 4, delta=1e-5)


def test_the_same_charge_costs_once(ledger: Ledger) -> None:
    first = ledger.charge(ENTRY, budget=100.0)
    again = ledger.charge(ENTRY, budget=100.0)
    assert (first.repeated, again.repeated) == (False, True)
    assert again.epsilon_total == first.epsilon_total
    assert charges(ledger) == ["c1"]


def test_a_repeated_charge_is_served_even_when_the_budget_is_used_up(ledger: Ledger) -> None:
    ledger.charge(ENTRY, budget=100.0)
    assert ledger.charge(ENTRY, budget=0.001).repeated


def test_a_charge_over_the_budget_is_refused_and_writes_nothing(ledger: Ledger) -> None:
    ledger.charge(ENTRY, budget=100.0)
    before = file_of(ledger).read_bytes()
    with pytest.raises(BudgetExceeded, match=r"spent 1\.\d{3}, this round would make it 2\.\d{3}.*fresh simulation"):
        ledger.charge(replace(ENTRY, charge="c2"), budget=2.0)
    assert file_of(ledger).read_bytes() == before


def test_a_refused_first_charge_leaves_no_line(ledger: Ledger) -> None:
    with pytest.raises(BudgetExceeded):
        ledger.charge(ENTRY, budget=0.5)
    assert ledger.entries() == ()


def test_a_charge_may_use_the_budget_to_the_last_bit(ledger: Ledger) -> None:
    cost = spent([ENTRY.segment()], delta=1e-5)
    assert ledger.charge(ENTRY, budget=cost).epsilon_total == cost


def test_a_torn_last_line_never_counted_and_gives_way_to_the_next_charge(ledger: Ledger) -> None:
    path = three(ledger)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert charges(ledger) == ["c1", "c2"]
    ledger.charge(replace(ENTRY, charge="c3"), budget=100.0)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"c2"', '"c9"'),
        ('"steps":1', '"steps":0'),
        ('"noise_multiplier":"2.0"', '"noise_multiplier":"200.0"'),
        ('"version":"0.0.1"', '"version":"0.0.2"'),
        ('"pool":"train"', '"pool":"other"'),
        ("{", "["),
        ('"split"', '"splat"'),
        ('"seal":"', '"seal":"0'),
    ],
)
def test_an_altered_line_is_refused_by_its_number(ledger: Ledger, old: str, new: str) -> None:
    path = three(ledger)
    lines = path.read_text().splitlines()
    assert old in lines[1]
    path.write_text("\n".join([lines[0], lines[1].replace(old, new, 1), lines[2], ""]))
    with pytest.raises(PrivacyError, match=r"line 2 is not a charge.*restore the file"):
        ledger.entries()
    with pytest.raises(PrivacyError, match="line 2"):
        ledger.charge(replace(ENTRY, charge="c4"), budget=100.0)


def test_a_line_that_was_taken_out_or_swapped_is_found(ledger: Ledger) -> None:
    path = three(ledger)
    first, second, third = path.read_text().splitlines(keepends=True)
    for text, line in ((first + third, 2), (second + third, 1), (first + third + second, 2), (first * 2, 2)):
        path.write_text(text)
        with pytest.raises(PrivacyError, match=f"line {line} "):
            ledger.entries()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", -3),
        ("steps", 1.5),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", float("nan")),
        ("noise_multiplier", float("inf")),
        ("sample_rate", 0.0),
        ("sample_rate", 1.1),
        ("delta", 0.0),
        ("delta", 1.0),
    ],
)
def test_an_entry_that_would_cost_nothing_cannot_be_made(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        replace(ENTRY, **{field: value})  # type: ignore[arg-type]  # the wrong values are the point


def test_pools_lie_side_by_side_while_the_split_is_one() -> None:
    train, held = [ENTRY] * 3, [replace(ENTRY, pool="holdout")] * 2
    together = total([*train, *held], delta=1e-5, accountant="prv")
    assert together == spent([ENTRY.segment()] * 3, delta=1e-5)
    moved = [*train, replace(ENTRY, pool="holdout", split="s2")]
    assert total(moved, delta=1e-5, accountant="prv") == spent([ENTRY.segment()] * 4, delta=1e-5)


def test_an_empty_history_costs_nothing() -> None:
    assert total([], delta=1e-5, accountant="prv") == 0.0


@pytest.mark.parametrize("splits", [("s1",), ("s1", "s2")])
def test_the_total_equals_an_accountant_that_we_do_not_use(splits: tuple[str, ...]) -> None:
    events = [("train", 1.1, 0.05, 40), ("holdout", 6.0, 1.0, 3), ("train", 0.9, 0.1, 10)]
    history = [
        replace(
            ENTRY,
            charge=str(place),
            pool=pool,
            split=splits[place % len(splits)],
            noise_multiplier=noise,
            sample_rate=rate,
            steps=steps,
        )
        for place, (pool, noise, rate, steps) in enumerate(events)
    ]
    expected = pooled_epsilon([(e.split, e.pool, *e.segment()) for e in history], 1e-5)
    assert total(history, delta=1e-5, accountant="prv") == pytest.approx(expected, abs=0.02)


def _charge_many(path: Path, name: str, budget: float) -> None:
    for number in range(8):
        try:
            Ledger(path).charge(replace(ENTRY, charge=f"{name}-{number}"), budget=budget)
        except BudgetExceeded:
            return


def _two_processes(path: Path, budget: float) -> None:
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=_charge_many, args=(path, name, budget)) for name in ("a", "b")]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_that_charge_at_once_lose_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(path: Path, line: bytes) -> None:
        time.sleep(0.01)  # long enough for the other to read, if nothing held it back
        append_durably(path, line)

    monkeypatch.setattr(ledger_module, "append_durably", slowly)
    _two_processes(file_of(ledger), budget=1e6)
    assert sorted(charges(ledger)) == sorted(f"{name}-{number}" for name in "ab" for number in range(8))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_together_cannot_go_over_the_budget(ledger: Ledger) -> None:
    budget = spent([ENTRY.segment()] * 5, delta=1e-5)
    _two_processes(file_of(ledger), budget=budget)
    assert len(charges(ledger)) == 5


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_charge_survives_a_kill_right_after_it_returned(ledger: Ledger) -> None:
    child = os.fork()
    if child == 0:
        ledger.charge(ENTRY, budget=100.0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert charges(ledger) == ["c1"]


def test_a_line_is_strict_json_with_the_charges_own_words(ledger: Ledger) -> None:
    """The file is a format: a site's ledger outlives the program that wrote it."""
    ledger.charge(ENTRY, budget=100.0)
    line = json.loads(file_of(ledger).read_text())
    seal = line.pop("seal")
    assert seal == hashlib.sha256(json.dumps(line, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert line == {
        "accountant": "prv",
        "charge": "c1",
        "delta": "1e-05",
        "federation": "tiny",
        "noise_multiplier": "2.0",
        "pool": "train",
        "sample_rate": "1.0",
        "split": "s1",
        "steps": 1,
        "version": "0.0.1",
    }
