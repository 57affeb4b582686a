"""The calibration of the quality gate: its numbers are those of the gate, and the marks hold."""

import json

import numpy as np
import pytest
from pytest import approx
from reference import outcome_chance

from fedrelease.server.gates.statistics import compare
from fedrelease.simulations.bench import gates
from fedrelease.simulations.bench.gates_calibration import Sequence, chance_to_pass, decided, lost_points, slices_passed


@pytest.mark.parametrize("n", [60, 290, 300, 2000])
def test_what_is_counted_is_what_the_gate_decides(n: int) -> None:
    b, c = np.random.default_rng(n).integers(0, n // 8, size=(2, 12))
    passed, failed = decided(b, c, n, 0.02)
    for at in range(12):
        state = compare(int(b[at]), int(c[at]), n, margin=0.02, alpha=0.05).state
        assert (state == "pass", state == "fail") == (bool(passed[at]), bool(failed[at]))


def test_chances_are_sums_over_every_outcome() -> None:
    """12 items, 10 % turn wrong and 5 % right: not lower where at least as many turn right."""
    expected = sum(outcome_chance(b, c, 12, 0.1, 0.05) for b in range(13) for c in range(13 - b) if c >= b)
    found = chance_to_pass("not lower", n=12, difference=-0.05, discordance=0.15, margin=0.02)
    assert found.passed == approx(expected) and found.passed + found.failed == approx(1)


@pytest.mark.parametrize("margin", [0.01, 0.02])
def test_with_200_items_a_model_two_points_worse_passes_at_most_five_times_in_a_hundred(margin: float) -> None:
    for discordance in (0.02, 0.05, 0.1, 0.3):
        found = chance_to_pass("gate", n=200, difference=-0.02, discordance=discordance, margin=margin)
        assert found.passed <= 0.05


def test_mcnemar_passes_most_models_that_are_worse_and_not_lower_blocks_almost_half_of_the_equal_ones() -> None:
    worse = chance_to_pass("McNemar not significant", n=200, difference=-0.02, discordance=0.05, margin=0.02)
    equal = chance_to_pass("not lower", n=200, difference=0.0, discordance=0.05, margin=0.02)
    assert worse.passed > 0.75 and equal.failed > 0.4


@pytest.mark.parametrize("n", [200, 1000, 4000])
def test_equal_models_are_undecided_and_not_blocked(n: int) -> None:
    assert chance_to_pass("gate", n=n, difference=0.0, discordance=0.05, margin=0.02).failed <= 0.01


def test_the_anchor_stops_what_stable_alone_lets_slip() -> None:
    anchored, alone = (
        100 * lost_points("gate", anchor_looks=looks, sequence=Sequence(), seeds=25) for looks in (20, None)
    )
    assert anchored.mean() <= 2 and alone.mean() > 7


def test_more_slices_cost_equal_models_a_little_and_never_help_worse_ones() -> None:
    equal, worse = (slices_passed(difference=true, classes=8, items=400, draws=1000) for true in (0.0, -0.02))
    assert worse["every class passes"] < worse["whole"] <= 0.07
    assert equal["every class passes"] < equal["whole"] and equal["a class fails"] <= 0.01


def test_the_command_prints_one_document_and_says_by_its_exit_code_whether_a_mark_is_missed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gates.calibrate(seeds=100, items=(200,))  # fewer say too little of what 19 of 20 runs lose
    monkeypatch.setattr(gates, "calibrate", lambda seeds: whole)
    assert gates.main(["--seeds", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert all(told["marks"].values()) and {"chances", "rounds", "slices", "needed"} < set(told)
    bad = {**whole, "chances": [{**row, "passed": 0.5} for row in whole["chances"]]}
    monkeypatch.setattr(gates, "calibrate", lambda seeds: bad)
    assert gates.main([]) == 1
    assert "MISSED  200 items" in capsys.readouterr().out


@pytest.mark.slow
def test_all_marks_hold_in_full() -> None:
    document = gates.calibrate()
    assert [mark for mark, holds in gates.marks(document).items() if not holds] == []
