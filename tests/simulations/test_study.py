"""The study of the README: which runs there are, and how the table reads."""

from fedrelease.simulations.study import SETTINGS, SITES, planned_runs, table


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
