"""Rounds whose phase adds labels, with sites that answer in this process: versions, states, memories, what gates compare."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_sites import START, FakeSites, make_experiment, make_setting, moved, receipt, run
from torch import Tensor

from fedrelease.errors import ModelError
from fedrelease.experiment import Experiment, Model, Phase, StrategyChoice
from fedrelease.messages import Answer, Request
from fedrelease.server.beginnings import Beginnings
from fedrelease.server.events import Event, MemoryBegins, RoundStarted
from fedrelease.server.gather import Setting
from fedrelease.server.judging import report_of
from fedrelease.server.lifecycle import By
from fedrelease.server.plan import planned_rounds, rounds_after
from fedrelease.server.recompute import recompute
from fedrelease.server.retraction import retract
from fedrelease.server.rounds import parent_of
from fedrelease.server.seen_items import scores_of
from fedrelease.server.sites import Reply
from fedrelease.server.verify import verify
from fedrelease.update import State

LABELS = ("negative", "positive", "neutral")
NEW = torch.tensor([7.0, 8.0, 0.25])
"""What training would start from with three labels: only the last number is news."""


class Stopped(Exception):
    """Stands in for a crash."""


def growing(*, strategy: str = "fedavg", on_held: str | None = None) -> Experiment:
    choice = StrategyChoice(name=strategy)
    few = Phase(name="few", rounds=2, strategy=choice, labels=LABELS[:2], on_held=on_held)
    more = Phase(name="more", rounds=2, strategy=choice, labels=LABELS, on_held=on_held)
    return replace(make_experiment(), model=Model(labels=LABELS), phases=(few, more))


def set_up(
    folder: Path, experiment: Experiment, *, watch: Callable[[Event], None] = lambda event: None, names: str = "ab"
) -> Setting:
    setting = make_setting(folder, FakeSites(names), experiment=experiment, watch=watch)

    def initial(round: int) -> State:
        return {**START, "head.bias": NEW.clone()} if round >= 3 else dict(START)

    return replace(setting, initial=initial)


def bias(setting: Setting, version: str) -> Tensor:
    return setting.store.find(version).state()["head.bias"]


def test_major_rises_with_labels_minor_with_the_phase_patch_with_the_round() -> None:
    plan = planned_rounds(growing())
    assert [planned.version for planned in plan] == ["0.1.1", "0.1.2", "1.2.1", "1.2.2"]
    released = ["0.0.0", "0.1.1", "0.1.2", "1.2.1", "1.2.2"]
    assert [planned.version for planned in rounds_after(plan, released[:3], 2)] == ["1.2.1", "1.2.2"]
    assert rounds_after(plan, released, 4) == ()


def test_a_plan_that_adds_no_label_keeps_major_0() -> None:
    plan = planned_rounds(replace(growing(), phases=(Phase(labels=LABELS, rounds=1), Phase(rounds=1))))
    assert [planned.version for planned in plan] == ["0.1.1", "0.2.1"]


def test_every_release_has_the_labels_of_its_phase_and_the_store_is_in_order(tmp_path: Path) -> None:
    setting = set_up(tmp_path / "s", growing())
    run(setting)
    found = {release.version: release.manifest.task.labels for release in setting.store.releases()}
    assert found == {"0.0.0": LABELS[:2], "0.1.1": LABELS[:2], "0.1.2": LABELS[:2], "1.2.1": LABELS, "1.2.2": LABELS}
    assert [len(bias(setting, version)) for version in found] == [2, 2, 2, 3, 3]
    assert verify(setting.store).ok


def test_sites_of_the_round_that_grows_begin_with_the_parents_rows_and_fresh_ones_for_new_labels(
    tmp_path: Path,
) -> None:
    setting = set_up(tmp_path / "s", growing())
    run(setting)
    parent = setting.store.find("0.1.2").state()
    began = {**parent, "head.bias": torch.cat([parent["head.bias"], NEW[2:]])}
    ends = [moved(site, "1.2.1", began) for site in "ab"]
    for name, value in setting.store.find("1.2.1").state().items():
        assert torch.allclose(value, (ends[0][name] + ends[1][name]) / 2, atol=1e-6)


def test_the_gates_pass_a_head_that_grew_since_major_rose_and_compare_its_layout_with_what_was_sent_out(
    tmp_path: Path,
) -> None:
    setting = set_up(tmp_path / "s", growing())
    run(setting)
    report = report_of(setting.store.find("1.2.1"))
    assert report is not None
    found = {finding.gate: finding for finding in report.findings if finding.gate != "integrity"}
    assert (found["compatibility"].state, found["compatibility"].evidence["changed"]) == ("pass", "labels")
    assert all(finding.state == "pass" for finding in report.findings if finding.gate == "integrity")
    assert setting.store.channels().channels["stable"].version == "1.2.2"


@pytest.mark.parametrize("stop_after", ["0.1.2", "1.2.1"])
def test_a_run_that_is_stopped_where_labels_are_added_ends_with_the_same_digest(
    tmp_path: Path, stop_after: str
) -> None:
    whole = run(set_up(tmp_path / "whole", growing(strategy="fedavgm")))
    order = ["0.1.1", "0.1.2", "1.2.1", "1.2.2"]

    def stop(event: Event) -> None:
        if isinstance(event, RoundStarted) and event.version == order[order.index(stop_after) + 1]:
            raise Stopped

    with pytest.raises(Stopped):
        run(set_up(tmp_path / "s", growing(strategy="fedavgm"), watch=stop))
    assert run(set_up(tmp_path / "s", growing(strategy="fedavgm"))) == whole


def test_momentum_goes_on_for_old_labels_and_begins_with_zeros_for_new_ones(tmp_path: Path) -> None:
    events: list[Event] = []
    setting = set_up(tmp_path / "s", growing(strategy="fedavgm"), watch=events.append)
    run(setting)
    before, after = (setting.store.find(version).memory() for version in ("0.1.2", "1.2.1"))
    (name,) = (name for name in after if name.endswith("head.bias"))
    assert (len(before[name]), len(after[name])) == (2, 3)
    assert not [event for event in events if isinstance(event, MemoryBegins)]


def test_after_a_held_round_that_reverts_the_next_one_grows_the_last_release_again(tmp_path: Path) -> None:
    experiment = growing(on_held="revert")
    held = replace(experiment.phases[1], gates={"update": {"least_sites": 3, "severity": "block"}})
    setting = set_up(tmp_path / "s", replace(experiment, phases=(experiment.phases[0], held)))
    run(setting)
    assert [setting.store.find(version).manifest.verdict for version in ("1.2.1", "1.2.2")] == ["held", "held"]
    last = setting.store.find("0.1.2")
    assert setting.store.find("1.2.2").manifest.parents == (last.digest,)
    assert parent_of(setting.store, setting.experiment).version == "0.1.2"
    assert len(bias(setting, "1.2.2")) == 3


def test_a_confusion_matrix_of_the_next_phases_labels_is_refused(tmp_path: Path) -> None:
    setting = set_up(tmp_path / "s", growing())
    sites = setting.sites
    assert isinstance(sites, FakeSites)
    answered = sites.evaluate

    def ahead(request: Request, state: State, names: tuple[str, ...]) -> list[Reply]:
        matrix = ((1.0,) * 3,) * 3
        told = {name: Answer(site=name, metrics={}, confusion=matrix) for name in names}
        return [replace(reply, answer=told[reply.site]) for reply in answered(request, state, names)]

    sites.evaluate = ahead  # type: ignore[method-assign, assignment]
    run(setting)
    refused = setting.store.find("0.1.1").manifest.federation.refused
    assert "confusion matrix has another shape" in refused[0].reason
    assert setting.store.find("1.2.1").manifest.federation.refused == ()


def test_noisy_accuracies_on_old_labels_count_their_rows_only() -> None:
    """Rows 0 and 1 of the matrix: 3 + 2 right of 10; each of 6 counts has noise 2, two of them are right."""
    told = replace(receipt("a", "holdout"), noise_multiplier=2.0)
    matrix = ((3.0, 1.0, 1.0), (1.0, 2.0, 2.0), (0.0, 0.0, 9.0))
    answers = {"a": Answer(site="a", metrics={}, confusion=matrix, receipt=told)}
    old = scores_of(answers, growing(), labels=LABELS[:2])
    whole = scores_of(answers, growing(), labels=LABELS)
    assert old is not None and whole is not None
    assert (old.accuracy["a"], old.examples["a"]) == (0.5, 10.0)
    assert old.noise["a"] == pytest.approx(2.0 * (2 * 0.25 + 4 * 0.25) ** 0.5 / 10)
    assert whole.accuracy["a"] == pytest.approx(14 / 19)
    two = {"a": Answer(site="a", metrics={}, confusion=((4.0, 1.0), (1.0, 4.0)), receipt=told)}
    before = scores_of(two, growing(), labels=LABELS[:2])
    assert before is not None and old.evaluation == before.evaluation != whole.evaluation


def kept(folder: Path, *, strategy: str = "fedavgm", names: str = "ab") -> Setting:
    """After the whole plan, with the updates of every round."""
    wanted = growing(strategy=strategy)
    wanted = replace(wanted, federation=replace(wanted.federation, keep_updates=True))
    setting = set_up(folder, wanted, names=names)
    run(setting)
    return setting


def beginnings(setting: Setting) -> Beginnings:
    return Beginnings(None, fresh=lambda release, round: setting.initial(round))


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam", "scaffold"])
def test_a_round_that_added_labels_comes_out_again_bit_for_bit(tmp_path: Path, strategy: str) -> None:
    setting = kept(tmp_path / "s", strategy=strategy)
    found = {one.version: one.outcome for one in recompute(setting.store, beginnings=beginnings(setting))}
    assert found == dict.fromkeys(("0.1.1", "0.1.2", "1.2.1", "1.2.2"), "same")


def test_other_rows_for_new_labels_than_the_round_had_are_told(tmp_path: Path) -> None:
    setting = kept(tmp_path / "s")
    other = Beginnings(None, fresh=lambda release, round: {**START, "head.bias": NEW + 1})
    found = {one.version: (one.outcome, one.what) for one in recompute(setting.store, beginnings=other)}
    assert found["1.2.1"] == ("differs", "state: head.bias") and found["1.2.2"] == ("same", "")


def test_without_the_base_such_a_round_alone_is_not_computed_again_and_that_is_no_fault(tmp_path: Path) -> None:
    found = {one.version: (one.outcome, one.what) for one in recompute(kept(tmp_path / "s").store)}
    assert [found[version][0] for version in ("0.1.1", "0.1.2", "1.2.1", "1.2.2")] == [
        "same",
        "same",
        "no-base",
        "same",
    ]
    assert "what 1.2.1 added follows from its base, which is not here" in found["1.2.1"][1]


def test_a_line_that_grew_is_rebuilt_without_a_site_as_its_rounds_would_have_grown_it(tmp_path: Path) -> None:
    """fedavg without c: each round adds the mean of what a and b sent; the third label's row begins with 0.25."""
    setting = kept(tmp_path / "s", strategy="fedavg", names="abc")
    by = By(actor="ada", reason="it asked to leave", time="2031-05-01T12:00:00+00:00")
    with setting.store.lock():
        done = retract(setting.store, "c", by=by, beginnings=beginnings(setting))
    assert [old for old, _ in done.rebuilt] == ["0.1.1", "0.1.2", "1.2.1", "1.2.2"]
    state = torch.zeros(2)
    began = {"0.1.1": "0.0.0", "0.1.2": "0.1.1", "1.2.1": "0.1.2", "1.2.2": "1.2.1"}
    for old, new in done.rebuilt:
        start = dict(setting.store.find(began[old]).state())
        if old == "1.2.1":
            start["head.bias"], state = torch.cat([start["head.bias"], NEW[2:]]), torch.cat([state, NEW[2:]])
        sent = [moved(site, old, start)["head.bias"] - start["head.bias"] for site in "ab"]
        state = state + (sent[0] + sent[1]) / 2
        assert torch.allclose(bias(setting, new), state, atol=1e-5)
    found = recompute(setting.store, beginnings=beginnings(setting))
    assert {one.outcome for one in found} == {"same"} and verify(setting.store).ok


def test_releases_with_fewer_labels_are_held_on_a_rebuilt_line_and_its_end_is_not(tmp_path: Path) -> None:
    """Their MAJOR is that of the head, whose users know three labels."""
    setting = kept(tmp_path / "s", names="abc")
    with setting.store.lock():
        done = retract(setting.store, "c", by=By(reason="leaves"), beginnings=beginnings(setting))
    new = [version for _, version in done.rebuilt]
    assert new == ["1.2.3", "1.2.4", "1.2.5", "1.2.6"] and done.held == ("1.2.3", "1.2.4")


def test_a_retraction_that_needs_the_base_is_refused_without_it_before_anything_is_released(tmp_path: Path) -> None:
    setting = kept(tmp_path / "s", names="abc")
    with setting.store.lock(), pytest.raises(ModelError, match=r"what 1\.2\.1 added follows from its base"):
        retract(setting.store, "c", by=By(reason="leaves"))
    assert len(setting.store.releases()) == 5
