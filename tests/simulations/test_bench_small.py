"""The curves of many tiny clients, and the pairs of seeds: what is measured is real, and what is computed from it is right."""

import json
import math
from pathlib import Path

import pytest
from pytest import approx

from fedrelease.simulations.bench import paired, small
from fedrelease.simulations.bench.paired import interval
from fedrelease.simulations.bench.small_picture import small_png
from fedrelease.simulations.bench.small_points import Point, measure_small


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[Point]:
    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRELEASE_CACHE", str(folder / "cache"))
        return measure_small(["ours", "bare"], cohorts=[3], populations=[20], rounds=2, repeats=1, folder=folder)


@pytest.mark.slow
def test_both_sides_are_run_and_learn_something_of_digits(measured: list[Point]) -> None:
    assert [(point.side, point.clients, point.population) for point in measured] == [("ours", 3, 20), ("bare", 3, 20)]
    for point in measured:
        assert len(point.round_s) == len(point.cpu_s) == len(point.accuracy) == 1
        assert point.client_ms == approx(1000 * point.round_s[0] / 3)
        assert 0 < point.round_s[0] < 60 and 0.05 < point.accuracy[0] <= 1


@pytest.mark.parametrize("populations", [[100], [100, 1000]])
def test_the_picture_is_a_png_whether_cohorts_or_populations_are_compared(populations: list[int]) -> None:
    points = [
        Point(side=side, clients=10, population=size, round_s=[0.5, 0.6], peak_bytes=[10**9, 10**9])
        for side in ("ours", "bare")
        for size in populations
    ]
    picture = small_png(points)
    assert picture.startswith(b"\x89PNG") and picture == small_png(points)


@pytest.mark.slow
def test_the_command_writes_its_document_and_its_picture(
    measured: list[Point], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(small, "measure_small", lambda *given, **settings: measured)
    assert small.main(["--out", str(tmp_path)]) == 0
    assert "ms" in capsys.readouterr().out
    assert [point["side"] for point in json.loads((tmp_path / "small.json").read_text())] == ["ours", "bare"]
    assert (tmp_path / "small.png").stat().st_size > 1000
    assert small.main(["--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["client_ms"] == approx(measured[0].client_ms)


def test_the_interval_is_students() -> None:
    """Differences 1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.3027, half width 4.3027 / sqrt(3) = 2.4841."""
    assert interval([1.0, 2.0, 3.0]) == approx((2.0, 2.0 - 2.4841, 2.0 + 2.4841), abs=1e-3)
    assert interval([0.25]) == (0.25, -math.inf, math.inf)


def test_pairs_of_seeds_are_shown_with_their_differences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = {
        "ours": [{"accuracy": 0.8, "epsilon": 8.0}, {"accuracy": 0.7, "epsilon": 7.99}],
        "exact": [{"accuracy": 0.79, "epsilon": 8.0}, {"accuracy": 0.72, "epsilon": 7.99}],
    }
    monkeypatch.setattr(paired, "measure_pairs", lambda *given, **settings: sides)
    assert paired.main(["--seeds", "0,1", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "+0.0100" in shown and "-0.0200" in shown and "ours - exact: -0.0050" in shown and "7.99" in shown
    assert paired.main(["--seeds", "0,1", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ours_minus"]["exact"][0] == approx(-0.005)
