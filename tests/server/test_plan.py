import pytest

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment, Phase
from fedrelease.server.plan import PlannedRound, cohort, planned_rounds, rounds_after

SITES = tuple(f"site-{number}" for number in range(10))


def planned(sites_per_round: float | int, version: str = "0.1.1") -> PlannedRound:
    return PlannedRound(version=version, number=1, phase=Phase(sites_per_round=sites_per_round))


def test_minor_is_the_phase_patch_the_round_in_it_and_numbers_run_through() -> None:
    plan = planned_rounds(Experiment(phases=(Phase(name="pilot", rounds=2), Phase(name="broad", rounds=1))))
    assert [(round.version, round.number, round.phase.name) for round in plan] == [
        ("0.1.1", 1, "pilot"),
        ("0.1.2", 2, "pilot"),
        ("0.2.1", 3, "broad"),
    ]


def test_what_remains_follows_the_head_by_number_and_not_by_text() -> None:
    plan = planned_rounds(Experiment(phases=(Phase(rounds=11),)))
    known = ["0.0.0", *(f"0.1.{number}" for number in range(1, 12))]
    assert [round.version for round in rounds_after(plan, known[:10], 9)] == ["0.1.10", "0.1.11"]
    assert len(rounds_after(plan, known[:1], 0)) == 11
    assert rounds_after(plan, known, 11) == ()


def test_versions_go_on_above_what_a_retraction_published_in_that_phase_only() -> None:
    """Two of three rounds were run and rebuilt as 0.1.3 and 0.1.4, so the third is 0.1.5; the next phase is as planned."""
    plan = planned_rounds(Experiment(phases=(Phase(name="pilot", rounds=3), Phase(name="broad", rounds=2))))
    left = rounds_after(plan, ["0.0.0", "0.1.1", "0.1.2", "0.1.3", "0.1.4"], 2)
    assert [(round.version, round.number) for round in left] == [("0.1.5", 3), ("0.2.1", 4), ("0.2.2", 5)]


@pytest.mark.parametrize(("wanted", "size"), [(1.0, 10), (0.25, 3), (0.01, 1), (4, 4), (1, 1)])
def test_a_share_is_rounded_up_and_a_number_is_taken_as_it_is(wanted: float | int, size: int) -> None:
    chosen = cohort(planned(wanted), sites=SITES, seed=7)
    assert len(set(chosen)) == size
    assert list(chosen) == sorted(chosen)
    assert set(chosen) <= set(SITES)


def test_the_cohort_depends_on_seed_and_version_and_not_on_the_order_of_sites() -> None:
    chosen = cohort(planned(3), sites=SITES, seed=7)
    assert cohort(planned(3), sites=tuple(reversed(SITES)), seed=7) == chosen
    assert cohort(planned(3), sites=SITES, seed=8) != chosen
    assert cohort(planned(3, "0.1.2"), sites=SITES, seed=7) != chosen


def test_every_site_has_its_turn() -> None:
    rounds = [cohort(planned(2, f"0.1.{round}"), sites=SITES, seed=7) for round in range(1, 61)]
    turns = {site: sum(site in chosen for chosen in rounds) for site in SITES}
    assert min(turns.values()) >= 3  # 12 turns are expected, with a standard deviation of 3.1


def test_more_sites_than_there_are_cannot_be_asked() -> None:
    with pytest.raises(ExperimentError, match="wants more sites than there are") as caught:
        cohort(planned(11), sites=SITES, seed=7)
    assert caught.value.value == 11
    assert "at most 10" in caught.value.rule


def test_a_phase_that_names_sites_asks_no_other() -> None:
    only = PlannedRound(version="0.1.1", number=1, phase=Phase(sites=("site-7", "site-3"), sites_per_round=1.0))
    assert cohort(only, sites=SITES, seed=7) == ("site-3", "site-7")


def test_a_phase_that_names_a_site_that_is_not_there_is_refused_with_those_that_are() -> None:
    lost = PlannedRound(version="0.1.1", number=1, phase=Phase(sites=("site-77",)))
    with pytest.raises(ExperimentError, match="names sites that are not there.*site-77.*some of site-0"):
        cohort(lost, sites=SITES, seed=7)
