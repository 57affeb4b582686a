"""Virtual time: what becomes of a site follows from its profile and from nothing else."""

import csv
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from fedrelease.experiment import Experiment, Privacy, Training
from fedrelease.simulations.profiles import Clock, Fate
from fedrelease.virtual_time import VirtualTime

SITES = [f"site-{number:04d}" for number in range(2000)]
PLAIN = Experiment(
    training=Training(batch_size=10, epochs=2), privacy=Privacy(unit="none"), virtual_time=VirtualTime(examples_per_s=5.0)
)  # fmt: skip


def fates(
    tmp_path: Path, version: str = "0.1.1", size_bytes: int = 0, seed: int = 7, **profile: float
) -> dict[str, Fate]:
    experiment = replace(
        PLAIN,
        virtual_time=replace(PLAIN.virtual_time, **profile),
        federation=replace(PLAIN.federation, seed=seed),
    )
    clock = Clock(experiment, rows_of=lambda site: 40, book=tmp_path / "book.csv")
    return dict(clock.ask(version, SITES, size_bytes=size_bytes))


def test_equal_sites_take_rows_times_epochs_over_speed_and_their_transfers(tmp_path: Path) -> None:
    """40 rows twice are 80 examples, at 5 a second 16 s; 500,000 bytes are 4 Mbit, both ways 8, at 2 Mbit/s 4 s."""
    assert {fate.seconds for fate in fates(tmp_path).values()} == {16.0}
    assert {fate.seconds for fate in fates(tmp_path, size_bytes=500_000, mbit_per_s=2.0).values()} == {20.0}


def test_private_batches_count_as_many_rows_as_are_expected(tmp_path: Path) -> None:
    """12 rows in batches of 10 are 1.2 steps an epoch, rounded to 2 for two epochs: 20 examples, 4 s."""
    private = replace(PLAIN, privacy=Privacy())
    clock = Clock(private, rows_of=lambda site: 12, book=tmp_path / "book.csv")
    assert clock.ask("0.1.1", ["a"], size_bytes=0) == {"a": Fate(seconds=4.0)}


def test_unequal_sites_lie_log_normally_around_the_middle_one_and_stay_what_they_are(tmp_path: Path) -> None:
    found, later = fates(tmp_path, spread=1.0), fates(tmp_path, version="0.1.2", spread=1.0)
    seconds = sorted(fate.seconds for fate in found.values())
    assert median(seconds) == pytest.approx(16.0, rel=0.1)
    assert seconds[int(0.8413 * 2000)] == pytest.approx(16.0 * 2.71828, rel=0.15)  # one deviation up
    assert found == later


def test_a_late_site_costs_the_deadline_and_says_what_it_would_have_taken(tmp_path: Path) -> None:
    found = fates(tmp_path, spread=1.0, deadline_s=20.0)
    without = fates(tmp_path, spread=1.0)
    for site, fate in found.items():
        late = without[site].seconds > 20.0
        assert (fate.refused is not None, fate.seconds) == (late, 20.0 if late else without[site].seconds)
    assert any("no answer within 20 virtual s" in (fate.refused or "") for fate in found.values())


def test_sites_are_away_and_break_off_as_often_as_the_profile_says(tmp_path: Path) -> None:
    """Of 2,000 sites 600 are away (deviation 20.5) and of the rest a quarter breaks off: 350 (deviation 17)."""
    found = fates(tmp_path, availability=0.7, dropout=0.25)
    away = [site for site, fate in found.items() if fate.refused == "not available"]
    broken = [fate for fate in found.values() if fate.refused == "broke off"]
    assert abs(len(away) - 600) < 103 and abs(len(broken) - 350) < 85
    assert all(found[site].seconds == 0.0 for site in away)
    assert all(0 <= fate.seconds < 16.0 for fate in broken)
    assert {site for site, fate in fates(tmp_path, "0.1.2", availability=0.7).items() if fate.refused} != set(away)


def test_the_same_seed_version_and_site_meet_the_same_fate(tmp_path: Path) -> None:
    profile = {"spread": 0.5, "availability": 0.8, "dropout": 0.1, "deadline_s": 20.0}
    assert fates(tmp_path, **profile) == fates(tmp_path, **profile)
    assert fates(tmp_path, **profile) != fates(tmp_path, seed=8, **profile)


def test_the_book_has_one_header_and_a_line_a_site_and_round(tmp_path: Path) -> None:
    fates(tmp_path, dropout=0.5)
    fates(tmp_path, version="0.1.2")
    with (tmp_path / "book.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4000 and {line["version"] for line in lines} == {"0.1.1", "0.1.2"}
    assert {line["outcome"] for line in lines} == {"in time", "broke off"}


def test_a_round_that_is_asked_again_is_not_written_twice(tmp_path: Path) -> None:
    first = fates(tmp_path, dropout=0.5)
    assert fates(tmp_path, dropout=0.5) == first
    assert len((tmp_path / "book.csv").read_text().splitlines()) == 1 + 2000
