"""The study of the README: which runs there are, and how the table reads."""

from pathlib import Path

import pytest

from fedrelease.server.store import Store
from fedrelease.simulations.study import SETTINGS, SITES, main, planned_runs, table


def test_every_setting_runs_with_every_seed_and_every_site_alone_under_the_first() -> None:
    names = [run.name for run in planned_runs(SETTINGS, (0, 1))]
    assert names[:2] == ["four-sites-none-seed0", "four-sites-none-seed1"]
    assert len(names) == len(set(names)) == 3 * 2 + 2 * 4
    assert "four-sites-none-seed1-tweets-alone" in names


def test_a_run_has_its_seed_and_a_site_alone_trains_alone() -> None:
    runs = {run.name: run.experiment for run in planned_runs(SETTINGS, (0, 1))}
    assert runs["four-sites-eps8-seed1"].federation.seed == 1
    assert {phase.sites for phase in runs["four-sites-none-seed0-nyt-alone"].phases} == {("nyt",)}
    assert runs["four-sites-none-seed0-nyt-alone"].training == runs["four-sites-none-seed0"].training


def test_the_three_settings_differ_in_privacy_as_their_names_say() -> None:
    runs = {run.name: run.experiment.privacy for run in planned_runs(SETTINGS, (0,))}
    assert runs["four-sites-none-seed0"].unit == "none"
    assert (runs["four-sites-eps8-seed0"].epsilon, runs["four-sites-eps1-seed0"].epsilon) == (8.0, 1.0)


def test_the_table_gives_means_over_seeds_and_their_spread() -> None:
    results = {f"four-sites-eps8-seed{seed}": dict.fromkeys(SITES, 0.8 + seed / 10) for seed in (0, 1)}
    last = table(results, ("four-sites-eps8",), (0, 1)).splitlines()[-1]
    # per site (0.8 + 0.9) / 2 = 0.85; the means of sites are 0.8 and 0.9, whose standard deviation is 0.0707
    assert last == "| four-sites-eps8 | 0.850 | 0.850 | 0.850 | 0.850 | 0.8500 ± 0.071 |"


def test_the_last_line_is_the_best_of_the_other_sites_for_each_site() -> None:
    results = {f"four-sites-none-seed0-{site}-alone": dict.fromkeys(SITES, 0.6) | {site: 0.9} for site in SITES}
    results |= {"four-sites-none-seed0": dict.fromkeys(SITES, 0.8)}
    results["four-sites-none-seed0-nyt-alone"]["movie"] = 0.7
    last = table(results, ("four-sites-none",), (0,)).splitlines()[-1]
    assert last == "| best other site's, no privacy | 0.600 | 0.700 | 0.600 | 0.600 | 0.6250 |"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--seeds", "0,x"], "'0,x' is not whole numbers"),
        (["--settings", "four-sites-eps9"], "known are four-sites-none"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    typed: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*typed, "--out", str(tmp_path / "out")])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_store_that_is_in_use_is_told_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.create_or_open(tmp_path / "four-sites-eps1-seed0")
    with store.lock():
        code = main(["--settings", "four-sites-eps1", "--seeds", "0", "--out", str(tmp_path)])
    assert (code, "in use" in capsys.readouterr().err) == (1, True)
