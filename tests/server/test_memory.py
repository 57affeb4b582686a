"""What strategies remember, in releases: a run goes on from it."""

from dataclasses import replace
from pathlib import Path

import pytest
from fake_sites import FakeSites, make_experiment, make_setting, run

from fedrelease.experiment import Experiment, StrategyChoice
from fedrelease.server.events import Event, Released
from fedrelease.server.store import Store

REMEMBERING = {"dare": "dare/", "diloco": "SGD.", "fedadam": "first_moment/", "fedopt": "Adam.", "fedyogi": "second_"}
"""And how one of the tensors that each of them remembers begins."""


def experiment_with(*names: str) -> Experiment:
    """Two rounds of each, a phase each."""
    experiment = make_experiment(rounds=2)
    one = experiment.phases[0]
    phases = tuple(replace(one, name=name, strategy=StrategyChoice(name=name)) for name in names)
    return replace(experiment, phases=phases)


class Stopped(Exception):
    """Stands in for a crash."""


def stop_after_the_first_round(event: Event) -> None:
    if isinstance(event, Released) and event.version == "0.1.1":
        raise Stopped


@pytest.mark.parametrize("name", sorted(REMEMBERING))
def test_a_run_that_is_stopped_between_rounds_goes_on_from_the_releases_memory_bit_for_bit(
    tmp_path: Path, name: str
) -> None:
    experiment, folder = experiment_with(name), tmp_path / "stopped"
    with pytest.raises(Stopped):
        run(make_setting(folder, FakeSites("abc"), experiment=experiment, watch=stop_after_the_first_round))
    assert any(key.startswith(REMEMBERING[name]) for key in Store.open(folder).find("0.1.1").memory())
    digest = run(make_setting(folder, FakeSites("abc"), experiment=experiment))
    assert digest == run(make_setting(tmp_path / "never", FakeSites("abc"), experiment=experiment))


def test_a_phase_with_another_strategy_begins_with_a_memory_of_its_own(tmp_path: Path) -> None:
    setting = make_setting(tmp_path / "s", FakeSites("abc"), experiment=experiment_with("fedadam", "fedopt", "fedavg"))
    run(setting)
    kinds = [{key.split("/")[0] for key in release.memory()} for release in setting.store.releases()]
    moments, adam = {"first_moment", "second_moment"}, {"Adam.exp_avg", "Adam.exp_avg_sq", "Adam.step"}
    assert kinds == [set(), moments, moments, adam, adam, set(), set()]
