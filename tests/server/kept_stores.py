"""Stores of fake sites whose updates were kept, for tests of what can be computed again from them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fake_sites import FakeSites, make_setting, run

from fedrelease.experiment import Experiment, Federation, Phase, Privacy, StrategyChoice
from fedrelease.server.events import Event
from fedrelease.server.gather import Setting
from fedrelease.server.store import Store


def experiment(*phases: Phase, keep: bool = True, **strategy: float | str) -> Experiment:
    """Without privacy; ``strategy`` is a name and knobs for one phase of three rounds, where no phases are given."""
    name = str(strategy.pop("name", "fedavg"))
    one = Phase(name="pilot", rounds=3, strategy=StrategyChoice(name=name, knobs=strategy))
    return Experiment(federation=Federation(keep_updates=keep), privacy=Privacy(unit="none"), phases=phases or (one,))


def setting_of(
    folder: Path,
    wanted: Experiment,
    names: Sequence[str] = "abc",
    *,
    sites: FakeSites | None = None,
    watch: Callable[[Event], None] = lambda event: None,
) -> Setting:
    """Ready to run."""
    return make_setting(folder, sites or FakeSites(names), experiment=wanted, watch=watch)


def kept_store(folder: Path, wanted: Experiment | None = None, names: Sequence[str] = "abc") -> Store:
    """After the whole plan."""
    setting = setting_of(folder, wanted or experiment(), names)
    run(setting)
    return setting.store
