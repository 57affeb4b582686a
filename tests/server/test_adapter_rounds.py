"""Rounds whose phase grows the adapter, with sites that answer in this process: versions, states, memories, refusals."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_sites import FakeSites, make_experiment, make_setting, moved, run
from torch import Tensor

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Adapter, AdapterChange, Experiment, Model, Phase, StrategyChoice
from fedrelease.factors import trained_part, truncated
from fedrelease.growth import grown
from fedrelease.server.beginnings import Beginnings
from fedrelease.server.difference import difference
from fedrelease.server.events import Event, RoundStarted
from fedrelease.server.gather import Setting
from fedrelease.server.going_on import parent_of
from fedrelease.server.judging import report_of
from fedrelease.server.plan import planned_rounds
from fedrelease.server.recompute import recompute
from fedrelease.server.rejudging import rejudge
from fedrelease.server.sites import Reply
from fedrelease.server.verify import verify
from fedrelease.update import State

VERSIONS = ["0.1.1", "0.1.2", "1.2.1", "1.2.2", "2.3.1"]
CHANGES = (AdapterChange(), AdapterChange(rank=2), AdapterChange(targets="query,value"))
NEW = torch.tensor([0.5, 0.25, 0.125])


class Stopped(Exception):
    """Stands in for a crash."""


def fresh(experiment: Experiment, round: int) -> State:
    """What training would start from: A of whole numbers, B of zeros, for each module that the round's adapter names."""
    adapter, labels = experiment.adapter_at(round), experiment.labels_at(round)
    state: dict[str, Tensor] = {"head.bias": torch.zeros(len(labels))}
    for place, module in enumerate(adapter.targets.split(",")):
        state[f"{module}.lora_A"] = 10.0 * place + torch.arange(3.0 * adapter.rank).reshape(adapter.rank, 3)
        state[f"{module}.lora_B"] = torch.zeros(2, adapter.rank)
        if adapter.residual:
            state[f"{module}.residual"] = torch.zeros(2, 3)
    return state


def growing(strategy: str = "fedavg", *, on_held: str | None = None, first: Adapter | None = None) -> Experiment:
    choice, adapter = StrategyChoice(name=strategy), first or Adapter(rank=1, alpha=3.0, targets="query")
    phases = tuple(
        Phase(name=name, rounds=rounds, strategy=choice, adapter=change, on_held=on_held)
        for name, rounds, change in zip(("one", "two", "three"), (2, 2, 1), CHANGES, strict=True)
    )
    return replace(make_experiment(keep=True), model=Model(adapter=adapter), phases=phases)


def set_up(
    folder: Path, experiment: Experiment, *, watch: Callable[[Event], None] = lambda event: None, names: str = "ab"
) -> Setting:
    setting = make_setting(folder, FakeSites(names), experiment=experiment, watch=watch)
    return replace(setting, initial=lambda round: fresh(experiment, round))


@pytest.fixture
def done(tmp_path: Path) -> Setting:
    setting = set_up(tmp_path / "s", growing())
    run(setting)
    return setting


def test_major_rises_with_the_adapter_and_with_labels_and_once_where_both_grow() -> None:
    assert [planned.version for planned in planned_rounds(growing())] == VERSIONS
    names, experiment = ("a", "b", "c"), growing()
    labels = (names[:2], names, None)
    phases = tuple(replace(phase, labels=own) for phase, own in zip(experiment.phases, labels, strict=True))
    both = replace(experiment, model=replace(experiment.model, labels=names), phases=phases)
    assert [planned.version for planned in planned_rounds(both)] == VERSIONS


def test_other_ranks_of_single_sites_change_no_release_and_leave_major() -> None:
    experiment = growing()
    own = replace(experiment.phases[1], adapter=AdapterChange(site_ranks={"a": 1}))
    plan = planned_rounds(replace(experiment, phases=(experiment.phases[0], own)))
    assert [planned.version for planned in plan] == ["0.1.1", "0.1.2", "0.2.1", "0.2.2"]


def test_every_release_tells_the_adapter_of_its_own_phase_and_the_store_is_in_order(done: Setting) -> None:
    found = {one.version: (one.manifest.adapter, one.state()["query.lora_B"].shape[1]) for one in done.store.releases()}
    told = {version: (adapter.rank, adapter.alpha, adapter.targets) for version, (adapter, _) in found.items()}
    small, wide, more = (1, 3.0, "query"), (2, 6.0, "query"), (2, 6.0, "query,value")
    assert [told[version] for version in ("0.0.0", *VERSIONS)] == [small, small, small, wide, wide, more]
    assert all(adapter.rank == columns for adapter, columns in found.values())
    assert "value.lora_A" in done.store.find("2.3.1").state() and verify(done.store).ok


def test_sites_of_the_round_that_grows_begin_with_the_parents_numbers_and_fresh_ones_beside_them(done: Setting) -> None:
    parent, found = done.store.find("0.1.2").state(), done.store.find("1.2.1").state()
    began = {
        "head.bias": parent["head.bias"],
        "query.lora_A": torch.cat([parent["query.lora_A"], torch.tensor([[3.0, 4.0, 5.0]])]),
        "query.lora_B": torch.cat([parent["query.lora_B"], torch.zeros(2, 1)], dim=1),
    }
    ends = [moved(site, "1.2.1", dict(sorted(began.items()))) for site in "ab"]
    for name, value in found.items():
        assert torch.allclose(value, (ends[0][name] + ends[1][name]) / 2, atol=1e-6)


def test_the_gates_pass_an_adapter_that_grew_since_major_rose(done: Setting) -> None:
    for version in ("1.2.1", "2.3.1"):
        report = report_of(done.store.find(version))
        assert report is not None
        found = {finding.gate: finding for finding in report.findings if finding.gate != "integrity"}
        assert (found["compatibility"].state, found["compatibility"].evidence["changed"]) == ("pass", "adapter")
        assert all(finding.state == "pass" for finding in report.findings if finding.gate == "integrity")
    assert done.store.channels().channels["stable"].version == "2.3.1"


def test_a_release_whose_adapter_grew_can_be_judged_again(done: Setting) -> None:
    assert rejudge(done.store, done.store.find("2.3.1")).report.verdict == "pass"


def test_a_difference_tells_what_of_the_adapter_is_another(done: Setting) -> None:
    found = difference(done.store.find("0.1.2"), done.store.find("1.2.1"))
    assert {"adapter.rank: 1 -> 2", "adapter.alpha: 3.0 -> 6.0"} <= set(found.config)
    reshaped = {one.name: one.what for one in found.tensors if one.relative is None}
    assert "[1, 3] -> float32 [2, 3]" in reshaped["query.lora_A"]


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm"])
def test_a_round_that_grew_the_adapter_comes_out_again_where_its_base_is_and_else_that_is_told(
    tmp_path: Path, strategy: str
) -> None:
    done = set_up(tmp_path / "s", growing(strategy))
    run(done)
    drawn = Beginnings(None, fresh=lambda release, round: done.initial(round))
    assert [one.outcome for one in recompute(done.store, beginnings=drawn) if one.version in VERSIONS] == ["same"] * 5
    found = {one.version: one for one in recompute(done.store)}
    assert [found[version].outcome for version in VERSIONS] == ["same", "same", "no-base", "same", "no-base"]
    assert "what 1.2.1 added follows from its base" in found["1.2.1"].what


@pytest.mark.parametrize(
    ("strategy", "stop_before"), [("fedavgm", "1.2.1"), ("fedadam", "1.2.2"), ("foolsgold", "2.3.1")]
)
def test_a_run_that_is_stopped_where_the_adapter_grows_ends_with_the_same_digest(
    tmp_path: Path, strategy: str, stop_before: str
) -> None:
    whole = run(set_up(tmp_path / "whole", growing(strategy)))

    def stop(event: Event) -> None:
        if isinstance(event, RoundStarted) and event.version == stop_before:
            raise Stopped

    with pytest.raises(Stopped):
        run(set_up(tmp_path / "s", growing(strategy), watch=stop))
    assert run(set_up(tmp_path / "s", growing(strategy))) == whole


def test_a_growing_round_that_is_killed_after_one_answer_asks_the_other_site_only_and_ends_with_the_same_digest(
    tmp_path: Path,
) -> None:
    whole = run(set_up(tmp_path / "whole", growing("fedavgm")))
    setting = set_up(tmp_path / "s", growing("fedavgm"))
    sites = setting.sites
    assert isinstance(sites, FakeSites)
    train = sites.train

    def torn(*asked: object) -> object:
        for place, reply in enumerate(train(*asked)):  # type: ignore[arg-type]
            if reply.answer is not None and asked[0].version == "1.2.1" and place == 1:  # type: ignore[attr-defined]
                raise Stopped
            yield replace(reply, more=False)

    sites.train = torn  # type: ignore[method-assign, assignment]
    with pytest.raises(Stopped):
        run(setting)
    again = set_up(tmp_path / "s", growing("fedavgm"))
    assert run(again) == whole
    assert isinstance(again.sites, FakeSites) and len(again.sites.trained("1.2.1")) == 1


def test_momentum_goes_on_for_old_ranks_and_begins_with_zeros_for_new_ones(tmp_path: Path) -> None:
    """With momentum 0.9 the first round that has a number begins with its mean delta alone; old ones carry 0.9 of theirs."""
    setting = set_up(tmp_path / "s", growing("fedavgm"))
    run(setting)
    before, after = (setting.store.find(version).memory() for version in ("0.1.2", "1.2.1"))
    (name,) = (name for name in after if name.endswith("query.lora_B"))
    parent = setting.store.find("0.1.2").state()
    began = grown(parent, like=fresh(setting.experiment, 3))
    ends = [moved(site, "1.2.1", dict(sorted(began.items()))) for site in "ab"]
    step = -sum(end["query.lora_B"] - began["query.lora_B"] for end in ends) / 2
    carried = after[name] - step
    assert before[name].shape == (2, 1) and bool(before[name].any())
    assert torch.allclose(carried[:, :1], 0.9 * before[name], atol=1e-5)
    assert torch.allclose(carried[:, 1:], torch.zeros(2, 1), atol=1e-5)
    assert not [name for name in after if "value" in name]
    last = setting.store.find("2.3.1").memory()
    assert [name for name in last if "value.lora_A" in name], (
        "a new module has a memory of its own from its first round on"
    )


def test_after_a_held_round_that_reverts_the_next_one_grows_the_last_release_again(tmp_path: Path) -> None:
    experiment = growing(on_held="revert")
    held = replace(experiment.phases[1], gates={"update": {"least_sites": 3, "severity": "block"}})
    setting = set_up(tmp_path / "s", replace(experiment, phases=(experiment.phases[0], held, experiment.phases[2])))
    run(setting)
    assert [setting.store.find(version).manifest.verdict for version in VERSIONS[2:]] == ["held", "held", "released"]
    last = setting.store.find("0.1.2")
    assert all(setting.store.find(version).manifest.parents == (last.digest,) for version in VERSIONS[2:])
    assert parent_of(setting.store, setting.experiment).version == "2.3.1"
    assert setting.store.find("2.3.1").state()["query.lora_A"].shape == (2, 3), "both phases' growth at once"


def test_a_site_with_a_rank_of_its_own_answers_in_the_phases_rank(tmp_path: Path) -> None:
    experiment = growing("flexlora", first=Adapter(rank=2, alpha=6.0, targets="query", site_ranks={"a": 1}))
    changes = (AdapterChange(), AdapterChange(rank=4, site_ranks={"a": 3}), AdapterChange())
    phases = tuple(replace(phase, adapter=own) for phase, own in zip(experiment.phases, changes, strict=True))
    setting = set_up(tmp_path / "s", replace(experiment, phases=phases))
    sites = setting.sites
    assert isinstance(sites, FakeSites)
    train, ranks = sites.train, {"0.1.1": 1, "0.1.2": 1}

    def own_rank(*asked: object) -> object:
        for reply in train(*asked):  # type: ignore[arg-type]
            rank = ranks.get(asked[0].version, 3)  # type: ignore[attr-defined]
            yield replace(reply, arrays=truncated(reply.arrays, rank)) if reply.site == "a" else reply

    sites.train = own_rank  # type: ignore[method-assign, assignment]
    run(setting)
    for version in ("0.1.2", "1.2.1"):
        assert [one.site for one in setting.store.find(version).manifest.federation.accepted] == ["a", "b"]


def test_an_adapter_that_lacks_a_module_on_this_base_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    experiment = growing(first=Adapter(rank=1, alpha=3.0, targets="attention"))
    setting = set_up(tmp_path / "s", experiment)

    def initial(round: int) -> State:
        names = "query,key" if experiment.adapter_at(round).targets == "attention" else "query,value"
        adapter = replace(experiment.adapter_at(round), targets=names)
        return fresh(replace(experiment, model=Model(adapter=adapter), phases=(Phase(),)), 0)

    with pytest.raises(
        ExperimentError, match=r"phase three leaves out.*key\.lora_A, key\.lora_B.*query,value.*attention"
    ):
        run(replace(setting, initial=initial))
    assert isinstance(setting.sites, FakeSites) and setting.sites.asked == []


def test_a_strategy_that_the_grown_adapter_does_not_fit_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    experiment = growing("fedavg")
    mixed = replace(experiment.phases[2], adapter=AdapterChange(site_ranks={"a": 1}))
    setting = set_up(tmp_path / "s", replace(experiment, phases=(*experiment.phases[:2], mixed)))
    with pytest.raises(ExperimentError, match="fedavg needs every site to have the same rank"):
        run(setting)
    assert isinstance(setting.sites, FakeSites) and setting.sites.asked == []


def test_fedex_loras_residual_may_come_with_the_phase_that_needs_it(tmp_path: Path) -> None:
    experiment = growing()
    last = replace(
        experiment.phases[2], strategy=StrategyChoice(name="fedex-lora"), adapter=AdapterChange(residual=True)
    )
    setting = set_up(tmp_path / "s", replace(experiment, phases=(*experiment.phases[:2], last)))
    sites = setting.sites
    assert isinstance(sites, FakeSites)

    def kept(reply: Reply) -> Reply:
        return replace(reply, arrays=trained_part(reply.arrays))

    sites.spoil = dict.fromkeys("ab", kept)
    run(setting)
    assert bool(setting.store.find("2.3.1").state()["query.residual"].any())
    assert "query.residual" not in setting.store.find("1.2.2").state()
