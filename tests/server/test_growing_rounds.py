"""Rounds whose phase adds labels, with sites that answer in this process: versions, states, memories, what gates compare."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_sites import START, FakeSites, make_experiment, make_setting, moved, receipt, run
from torch import Tensor

from fedrelease.experiment import Experiment, Model, Phase, StrategyChoice
from fedrelease.messages import Answer, Request
from fedrelease.server.events import Event, MemoryBegins, RoundStarted
from fedrelease.server.gather import Setting
from fedrelease.server.judging import report_of
from fedrelease.server.plan import planned_rounds, rounds_after
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
