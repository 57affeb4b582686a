"""Tensors that travel beside the state, and memories of strategies between phases; with sites that answer in this process."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_sites import START, FakeSites, make_experiment, make_setting, moved, run

from fedrelease.errors import ExperimentError, RoundFailed, UpdateRefused
from fedrelease.experiment import Experiment, Federation, Phase, Privacy, StrategyChoice
from fedrelease.server.events import Event, MemoryBegins, SiteAnswered
from fedrelease.server.screen import screen_companions
from fedrelease.server.sites import Reply
from fedrelease.server.store import Store
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.transport import Transport
from fedrelease.update import State

PLAIN = Experiment(federation=Federation(max_update_norm=100.0), privacy=Privacy(unit="none"))
SENT = {f"variate/{name}": torch.ones_like(value) for name, value in START.items()}


class Stopped(Exception):
    """Stands in for a crash."""


def of_phases(*strategies: str, rounds: int = 1, **knobs: float) -> Experiment:
    phases = tuple(
        Phase(name=f"p{place}", rounds=rounds, strategy=StrategyChoice(name=name, knobs=knobs))
        for place, name in enumerate(strategies, 1)
    )
    return replace(make_experiment(), phases=phases)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variate/head.bias": None}, "variate/head.bias is missing"),
        ({"variate/x": torch.zeros(1)}, "unknown tensor came.*variate/x"),
        ({"other/head.bias": torch.zeros(2)}, "unknown tensor came.*other/head.bias"),
        ({"head.bias": torch.zeros(2)}, "unknown tensor came.*head.bias"),
        ({"variate/head.bias": torch.zeros(3)}, r"variate/head.bias has another shape.*\(3,\).*\(2,\)"),
        ({"variate/head.bias": torch.zeros(2).double()}, "variate/head.bias has another dtype"),
        ({"variate/head.bias": torch.tensor([0.0, torch.nan])}, "variate/head.bias has values that are not finite"),
        ({"variate/head.bias": torch.tensor([80.0, 80.0])}, r"variate beside the update is too large.*113\.\d.*<= 100"),
        ({"variate/head.bias": torch.tensor([3e38, 3e38])}, "variate beside the update is too large"),
    ],
)
def test_a_companion_that_is_not_in_order_is_refused_by_name(
    changes: dict[str, torch.Tensor | None], said: str
) -> None:
    wrong = {name: value for name, value in {**SENT, **changes}.items() if value is not None}
    with pytest.raises(UpdateRefused, match=said):
        screen_companions(START, wrong, ("variate",), experiment=PLAIN)


def test_companions_that_are_in_order_come_back_as_they_came() -> None:
    found = screen_companions(START, SENT, ("variate",), experiment=PLAIN)
    assert found.keys() == SENT.keys() and all(torch.equal(found[name], SENT[name]) for name in SENT)


def test_a_strategy_that_knows_none_gets_none() -> None:
    assert screen_companions(START, {}, (), experiment=PLAIN) == {}
    with pytest.raises(UpdateRefused, match="unknown tensor came"):
        screen_companions(START, SENT, (), experiment=PLAIN)


def test_what_the_server_remembers_goes_out_with_the_next_round_and_what_comes_back_is_added(tmp_path: Path) -> None:
    """Each fake site adds what ``moved`` adds: c after a round is c before, plus the mean of the sites' answers."""
    sites = FakeSites("ab")
    setting = make_setting(tmp_path / "s", sites, experiment=of_phases("scaffold", rounds=2))
    run(setting)
    zeros = {f"variate/{name}": torch.zeros_like(value) for name, value in START.items()}
    assert all(torch.equal(sites.sent["0.1.1"][name], zeros[name]) for name in zeros)
    first = [moved(site, "0.1.1", zeros) for site in "ab"]
    second = sites.sent["0.1.2"]
    for name in zeros:
        torch.testing.assert_close(second[name], (first[0][name] + first[1][name]) / 2)
    memory = setting.store.find("0.1.1").memory()
    assert all(torch.equal(memory[name], second[name]) for name in zeros)


@pytest.mark.parametrize("spoil", ["without", "long"])
def test_a_site_whose_companions_are_not_in_order_is_refused_and_the_others_make_the_round(
    tmp_path: Path, spoil: str
) -> None:
    def spoilt(reply: Reply) -> Reply:
        long = {name: value + 1e9 for name, value in reply.companions.items()}
        return replace(reply, companions={} if spoil == "without" else long)

    setting = make_setting(tmp_path / "s", FakeSites("abc", spoil={"a": spoilt}), experiment=of_phases("scaffold"))
    run(setting)
    federation = setting.store.find("0.1.1").manifest.federation
    assert [(one.site, "variate" in one.reason) for one in federation.refused] == [("a", True)]
    assert [one.site for one in federation.accepted] == ["b", "c"]


def test_fedavg_is_sent_nothing_and_refuses_what_it_did_not_ask_for(tmp_path: Path) -> None:
    def more(reply: Reply) -> Reply:
        return replace(reply, companions=SENT)

    sites = FakeSites("ab", spoil={"a": more})
    setting = make_setting(tmp_path / "s", sites, experiment=of_phases("fedavg"))
    run(setting)
    assert sites.sent["0.1.1"] == {}
    assert [one.site for one in setting.store.find("0.1.1").manifest.federation.refused] == ["a"]


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_a_run_that_was_stopped_in_a_round_ends_with_the_digest_of_one_that_was_not(tmp_path: Path, name: str) -> None:
    experiment, answered = of_phases(name, rounds=2), list[str]()

    def stop(event: Event) -> None:
        if isinstance(event, SiteAnswered) and (event.version, event.step) == ("0.1.2", "train"):
            answered.append(event.site)
            if len(answered) == 2:
                raise Stopped

    with pytest.raises(Stopped):
        run(make_setting(tmp_path / "s", FakeSites("abcd"), experiment=experiment, watch=stop))
    sites = FakeSites("abcd", seed=5)
    digest = run(make_setting(tmp_path / "s", sites, experiment=experiment))
    assert len(sites.trained("0.1.2")) == 2
    assert digest == run(make_setting(tmp_path / "never", FakeSites("abcd"), experiment=experiment))


def test_companions_are_counted_among_the_bytes_that_go_down_and_up(tmp_path: Path) -> None:
    costs = []
    for name in ("fedavg", "scaffold"):
        setting = make_setting(tmp_path / name, FakeSites("ab"), experiment=of_phases(name))
        run(setting)
        costs.append(setting.store.history()[-1])
    plain, beside = costs
    assert plain.bytes_down and plain.bytes_up and beside.bytes_down and beside.bytes_up
    numbers = 4 * sum(value.numel() for value in START.values())
    assert beside.bytes_down - plain.bytes_down > 2 * numbers
    assert beside.bytes_up - plain.bytes_up >= 2 * numbers


def memories(folder: Path, experiment: Experiment) -> tuple[Store, list[MemoryBegins]]:
    events: list[MemoryBegins] = []

    def watch(event: Event) -> None:
        if isinstance(event, MemoryBegins):
            events.append(event)

    setting = make_setting(folder, FakeSites("ab"), experiment=experiment, watch=watch)
    run(setting)
    return setting.store, events


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_memory_goes_on_into_a_phase_of_the_same_strategy_whatever_its_knobs(tmp_path: Path) -> None:
    one, other = of_phases("feddyn", "feddyn"), of_phases("feddyn", "feddyn", rounds=1)
    knobs = replace(other.phases[1], strategy=StrategyChoice(name="feddyn", knobs={"alpha": 0.1}))
    store, events = memories(tmp_path / "one", one)
    again, told = memories(tmp_path / "other", replace(other, phases=(other.phases[0], knobs)))
    assert events == told == []
    first, second = (store.find(version).memory() for version in ("0.1.1", "0.2.1"))
    assert same(second, again.find("0.2.1").memory())
    mean = {name: sum(moved(site, "0.2.1", START)[name] - START[name] for site in "ab") / 2 for name in START}
    for name in START:  # h - alpha * mean of the second round's deltas
        torch.testing.assert_close(
            second[f"h/{name}"], first[f"h/{name}"] - 0.1 * mean[name].double(), atol=1e-5, rtol=0
        )


def test_another_strategy_begins_with_an_empty_memory_and_the_watcher_is_told(tmp_path: Path) -> None:
    """SCAFFOLD after FedDyn and again after FedAvg: its second phase knows nothing of its first."""
    sites, events = FakeSites("ab"), list[Event]()
    plan = of_phases("scaffold", "fedavg", "scaffold", "feddyn")
    run(make_setting(tmp_path / "s", sites, experiment=plan, watch=events.append))
    assert [event for event in events if isinstance(event, MemoryBegins)] == [
        MemoryBegins(phase="p2", strategy="fedavg", before="scaffold", kept="0.1.1"),
        MemoryBegins(phase="p3", strategy="scaffold", before="fedavg", kept=None),
        MemoryBegins(phase="p4", strategy="feddyn", before="scaffold", kept="0.3.1"),
    ]
    assert not any(value.any() for value in sites.sent["0.3.1"].values())
    store = Store.open(tmp_path / "s")
    assert len(store.find("0.1.1").memory()) == 2 and dict(store.find("0.2.1").memory()) == {}
    assert {name.split("/")[0] for name in store.find("0.4.1").memory()} == {"h"}


class Three(FedAvg):
    """Needs three sites."""

    @property
    def least(self) -> int:
        return 3


@pytest.mark.parametrize("sites_per_round", [2, 0.5])
def test_a_phase_that_asks_fewer_sites_than_its_strategy_needs_is_refused_before_anybody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sites_per_round: float
) -> None:
    monkeypatch.setattr("fedrelease.server.rounds.make_strategy", lambda choice: Three())
    experiment, sites = make_experiment(), FakeSites("abcd")
    phases = (replace(experiment.phases[0], name="late", sites_per_round=sites_per_round),)
    setting = make_setting(tmp_path / "s", sites, experiment=replace(experiment, phases=phases))
    with pytest.raises(ExperimentError, match=r"phase late asks fewer sites.*2.*at least 3"):
        run(setting)
    assert sites.asked == [] and setting.store.releases() == ()


def test_a_strategy_with_companions_and_a_codec_are_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    experiment, sites = make_experiment(), FakeSites("ab")
    phases = (replace(experiment.phases[0], strategy=StrategyChoice(name="scaffold")),)
    experiment = replace(experiment, phases=phases, transport=Transport(codec="int8"))
    setting = make_setting(tmp_path / "s", sites, experiment=experiment)
    with pytest.raises(ExperimentError, match=r"scaffold has every site send its variate.*leave transport\.codec out"):
        run(setting)
    assert sites.asked == [] and setting.store.releases() == ()


def test_a_phase_that_asks_just_enough_is_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedrelease.server.rounds.make_strategy", lambda choice: Three())
    assert run(make_setting(tmp_path / "s", FakeSites("abc"), experiment=make_experiment(rounds=1)))


def test_a_variate_is_a_mean_over_all_sites_that_a_phase_may_ask(tmp_path: Path) -> None:
    """Two of four sites answer: c gets half of their mean; of a phase that may ask those two alone, all of it."""
    changes = []
    for may in ((), ("a", "b")):
        plan = of_phases("scaffold")
        phase = replace(plan.phases[0], sites_per_round=2, sites=may)
        sites = FakeSites("abcd")
        setting = make_setting(tmp_path / str(len(may)), sites, experiment=replace(plan, phases=(phase,)))
        run(setting)
        zeros = sites.sent["0.1.1"]
        asked = setting.store.find("0.1.1").manifest.federation.cohort
        mean = {name: sum(moved(site, "0.1.1", zeros)[name] for site in asked) / 2 for name in zeros}
        memory = setting.store.find("0.1.1").memory()
        changes.append({round(float((memory[name] / mean[name]).mean()), 5) for name in zeros})
    assert changes == [{0.5}, {1.0}]


def test_a_round_that_more_sites_answer_than_there_are_said_to_be_fails(tmp_path: Path) -> None:
    setting = make_setting(tmp_path / "s", FakeSites("abc"), experiment=of_phases("scaffold", population=2))
    with pytest.raises(RoundFailed, match="3 sites answered.*population"):
        run(setting)
