"""Who arrives when, worked out by hand, and rounds of sites that began with older releases."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_sites import START, FakeSites, make_experiment, make_setting, moved, run

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment, Phase, StrategyChoice
from fedrelease.server.plan import planned_rounds
from fedrelease.server.timetable import timetable

SECONDS = {"a": 1.0, "b": 2.5, "c": 10.0}
"""a is under way 1 s, b 2.5 s, c 10 s."""


def seconds(site: str, size_bytes: int) -> float:
    assert size_bytes == sum(tensor.nbytes for tensor in START.values())
    return SECONDS[site]


def rounds(count: int) -> Experiment:
    return Experiment(phases=(Phase(name="p", rounds=count),))


def table(count: int, waits_for: int) -> dict[str, dict[str, str]]:
    found = timetable(
        planned_rounds(rounds(count)),
        "0.0.0",
        waits_for=lambda asked: min(asked, waits_for),
        sites=("a", "b", "c"),
        seed=7,
        seconds_of=SECONDS.__getitem__,
    )
    return {version: dict(arrived) for version, arrived in found.items()}


def test_one_arrival_a_round_worked_out_by_hand() -> None:
    """a at 1, 2; b at 2.5; a at 3, 4, 5; b (who began again at 2.5, with 0.1.3) at 5 as well, after a by name."""
    assert list(table(7, 1).values()) == [
        {"a": "0.0.0"},
        {"a": "0.1.1"},
        {"b": "0.0.0"},
        {"a": "0.1.2"},
        {"a": "0.1.4"},
        {"a": "0.1.5"},
        {"b": "0.1.3"},
    ]


def test_two_arrivals_a_round() -> None:
    """a and b are there at 2.5, 5, 7.5 and 10; c, under way since 0, is there at 10 too, but b comes first by name."""
    assert list(table(5, 2).values()) == [
        {"a": "0.0.0", "b": "0.0.0"},
        {"a": "0.1.1", "b": "0.1.1"},
        {"a": "0.1.2", "b": "0.1.2"},
        {"a": "0.1.3", "b": "0.1.3"},
        {"a": "0.1.4", "c": "0.0.0"},
    ]


def test_waiting_for_all_is_a_round_as_usual() -> None:
    assert list(table(2, 3).values()) == [dict.fromkeys("abc", "0.0.0"), dict.fromkeys("abc", "0.1.1")]


def test_the_table_of_fewer_rounds_is_the_beginning_of_that_of_more() -> None:
    assert list(table(7, 1).items())[:3] == list(table(3, 1).items())


def of(strategy: str, count: int, **knobs: float) -> Experiment:
    phase = Phase(name="p", rounds=count, strategy=StrategyChoice(name=strategy, knobs=knobs))
    return replace(make_experiment(), phases=(phase,))


def test_a_late_site_trains_from_the_release_that_it_began_with_and_counts_less(tmp_path: Path) -> None:
    """0.1.3 is of b, who began with 0.0.0, two releases ago: its delta is divided by the root of 3."""
    setting = make_setting(tmp_path / "s", FakeSites("abc"), experiment=of("fedbuff", 3, buffer=1), seconds_of=seconds)
    run(setting)
    before, after = (dict(setting.store.find(version).state()) for version in ("0.1.2", "0.1.3"))
    assert [one.site for one in setting.store.find("0.1.3").manifest.federation.accepted] == ["b"]
    base = dict(setting.store.find("0.0.0").state())
    for name, delta in moved("b", "0.1.3", base).items():
        torch.testing.assert_close(after[name], before[name] + (delta - base[name]) / 3**0.5)


def test_mixing_goes_towards_the_state_that_a_late_site_ended_with(tmp_path: Path) -> None:
    """x = (1 - alpha) x + alpha x_b with alpha = 0.6 / root 3, where x_b is b's own state."""
    setting = make_setting(tmp_path / "s", FakeSites("abc"), experiment=of("fedasync", 3), seconds_of=seconds)
    run(setting)
    before, after = (dict(setting.store.find(version).state()) for version in ("0.1.2", "0.1.3"))
    ended, alpha = moved("b", "0.1.3", dict(setting.store.find("0.0.0").state())), 0.6 / 3**0.5
    for name in START:
        torch.testing.assert_close(after[name], (1 - alpha) * before[name] + alpha * ended[name])


@pytest.mark.parametrize("strategy", ["fedbuff", "fedasync"])
def test_a_run_that_was_stopped_ends_with_the_digest_of_one_that_was_not(tmp_path: Path, strategy: str) -> None:
    whole = make_setting(tmp_path / "w", FakeSites("abc"), experiment=of(strategy, 7, buffer=1), seconds_of=seconds)
    run(whole)

    def stops(reply: object) -> object:
        raise KeyboardInterrupt

    sites = FakeSites("abc", spoil={"b": stops})  # type: ignore[dict-item]
    setting = make_setting(tmp_path / "s", sites, experiment=of(strategy, 7, buffer=1), seconds_of=seconds)
    with pytest.raises(KeyboardInterrupt):
        run(setting)
    sites.spoil.clear()
    run(setting)
    assert setting.store.find("0.1.7").digest == whole.store.find("0.1.7").digest


def test_without_virtual_time_it_is_refused_unless_all_are_waited_for(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"fedasync does not wait for all sites.*1 of 3.*examples_per_s"):
        run(make_setting(tmp_path / "s", FakeSites("abc"), experiment=of("fedasync", 2)))
    run(make_setting(tmp_path / "t", FakeSites("abc"), experiment=of("fedbuff", 2, buffer=1.0)))
