"""A round's verdict: what gates are shown, what a held release changes, and where the next round starts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_sites import FakeSites, make_setting, moved, run

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment, Phase, Privacy, StrategyChoice
from fedrelease.experiment_file import load_experiment
from fedrelease.item_outcomes import Outcomes
from fedrelease.messages import Request
from fedrelease.server.events import Event, Released
from fedrelease.server.gather import Setting
from fedrelease.server.judging import report_of
from fedrelease.server.sites import Reply
from fedrelease.server.verify import verify
from fedrelease.update import State

ROWS = 400
PART = "ab" * 32


class TellingSites(FakeSites):
    """Sites that tell each of 400 items; how many are answered rightly is up to the test, by version and from the front."""

    def __init__(self, names: Sequence[str], right: Mapping[str, int], *, noised: bool = False) -> None:
        super().__init__(names, private=noised)
        self.right, self.noised = right, noised

    def evaluate(self, request: Request, state: State, sites: Sequence[str]) -> Iterator[Reply]:
        for reply in super().evaluate(request, state, sites):
            assert reply.answer is not None
            items = None if self.noised else outcomes(self.right[request.version])
            yield replace(reply, answer=replace(reply.answer, items=items))


def outcomes(right: int) -> Outcomes:
    truth = tuple(place % 2 for place in range(ROWS))
    predicted = tuple(label if place < right else 1 - label for place, label in enumerate(truth))
    return Outcomes(parts={"negative": PART, "positive": PART}, truth=truth, predicted=predicted, loss=(0.5,) * ROWS)


def experiment(
    *, rounds: int = 3, gates: Mapping[str, Mapping[str, float | str]] | None = None, **phase: str
) -> Experiment:
    quality = {"quality": {"margin": 0.02}} if gates is None else gates
    return Experiment(
        privacy=Privacy(unit="none"),
        phases=(Phase(name="pilot", rounds=rounds, gates=quality, **phase),),  # type: ignore[arg-type]
    )


def setting_of(folder: Path, right: Mapping[str, int], wanted: Experiment, events: list[Event]) -> Setting:
    return make_setting(folder, TellingSites("ab", right), experiment=wanted, watch=events.append)


def verdicts(setting: Setting) -> dict[str, str]:
    return {release.version: release.manifest.verdict for release in setting.store.releases()}


STEADY = {"0.0.0": 300, "0.1.1": 320, "0.1.2": 320, "0.1.3": 320}
DROP = {**STEADY, "0.1.2": 280}


def test_equal_candidates_pass_and_move_their_channel(tmp_path: Path) -> None:
    setting = setting_of(tmp_path / "s", STEADY, experiment(), [])
    run(setting)
    assert set(verdicts(setting).values()) == {"released"}
    assert setting.store.find("stable").version == "0.1.3"
    report = report_of(setting.store.find("0.1.3"))
    assert report is not None and report.verdict == "pass" and report.looks == 3
    against = {found.against for found in report.findings if found.gate == "quality"}
    assert against == {"stable 0.1.2", "anchor 0.1.1"}


def test_the_first_candidate_is_compared_with_the_base(tmp_path: Path) -> None:
    setting = setting_of(tmp_path / "s", {**STEADY, "0.1.1": 250}, experiment(rounds=1), [])
    run(setting)
    report = report_of(setting.store.find("0.1.1"))
    assert report is not None and report.verdict == "fail" and "base 0.0.0" in report.sentence


def test_a_base_that_always_gives_one_label_does_not_hold_who_gives_that_one_less_often(tmp_path: Path) -> None:
    class Learning(TellingSites):
        def evaluate(self, request: Request, state: State, sites: Sequence[str]) -> Iterator[Reply]:
            for reply in super().evaluate(request, state, sites):
                assert reply.answer is not None and reply.answer.items is not None
                constant = replace(
                    reply.answer.items, predicted=(1,) * ROWS
                )  # right on half of all, and on all of one class
                items = constant if request.round == 0 else reply.answer.items
                yield replace(reply, answer=replace(reply.answer, items=items))

    setting = make_setting(tmp_path / "s", Learning("ab", STEADY), experiment=experiment(rounds=1))
    run(setting)
    assert verdicts(setting)["0.1.1"] == "released"


def test_a_worse_candidate_is_held_gets_no_channel_and_says_why(tmp_path: Path) -> None:
    events: list[Event] = []
    setting = setting_of(tmp_path / "s", DROP, experiment(), events)
    run(setting)
    assert verdicts(setting) == {"0.0.0": "released", "0.1.1": "released", "0.1.2": "held", "0.1.3": "released"}
    told = {event.version: event.held for event in events if isinstance(event, Released)}
    assert told["0.1.1"] is None and str(told["0.1.2"]).startswith("held: quality against anchor 0.1.1")
    line = next(entry for entry in setting.store.history() if entry.version == "0.1.2")
    assert (line.event, line.channels, line.reason) == ("held", (), told["0.1.2"])
    assert verify(setting.store).ok


@pytest.mark.parametrize(("on_held", "parent"), [("continue", "0.1.2"), ("revert", "0.1.1")])
def test_the_round_after_a_held_release_starts_where_the_phase_says(tmp_path: Path, on_held: str, parent: str) -> None:
    setting = setting_of(tmp_path / "s", DROP, experiment(on_held=on_held), [])
    run(setting)
    start, last = setting.store.find(parent), setting.store.find("0.1.3")
    assert last.manifest.parents == (start.digest,)
    deltas = [moved(site, "0.1.3", start.state())["head.bias"] - start.state()["head.bias"] for site in "ab"]
    mean = torch.stack(deltas).mean(0)
    assert torch.allclose(last.state()["head.bias"], start.state()["head.bias"] + mean, atol=1e-6)


@pytest.mark.parametrize("on_held", ["continue", "revert"])
def test_a_run_stopped_after_a_held_release_goes_on_to_the_same_digest(tmp_path: Path, on_held: str) -> None:
    whole = setting_of(tmp_path / "whole", DROP, experiment(on_held=on_held), [])
    expected = run(whole)

    class Stopped(Exception):
        """Stands in for a crash."""

    def stop(event: Event) -> None:
        if isinstance(event, Released) and event.version == "0.1.2":
            raise Stopped

    stopped = make_setting(tmp_path / "s", TellingSites("ab", DROP), experiment=experiment(on_held=on_held), watch=stop)
    with pytest.raises(Stopped):
        run(stopped)
    assert run(setting_of(tmp_path / "s", DROP, experiment(on_held=on_held), [])) == expected


def test_another_evaluation_set_is_an_error_and_holds(tmp_path: Path) -> None:
    class Other(TellingSites):
        def evaluate(self, request: Request, state: State, sites: Sequence[str]) -> Iterator[Reply]:
            for reply in super().evaluate(request, state, sites):
                assert reply.answer is not None and reply.answer.items is not None
                parts = dict.fromkeys(reply.answer.items.parts, "cd" * 32)
                other = request.version == "0.1.2" and reply.site == "b"
                items = replace(reply.answer.items, parts=parts) if other else reply.answer.items
                yield replace(reply, answer=replace(reply.answer, items=items))

    setting = make_setting(tmp_path / "s", Other("ab", STEADY), experiment=experiment(rounds=2))
    run(setting)
    report = report_of(setting.store.find("0.1.2"))
    assert report is not None and (report.verdict, report.looks) == ("error", 1)


def test_without_a_gate_that_compares_no_site_tells_an_item_and_none_is_kept(tmp_path: Path) -> None:
    setting = make_setting(tmp_path / "s", FakeSites("ab"), experiment=experiment(rounds=1, gates={}))
    run(setting)
    release = setting.store.find("0.1.1")
    assert "items" not in {entry.role for entry in release.manifest.files}
    report = report_of(release)
    assert report is not None
    assert {found.gate for found in report.findings} == {"compatibility", "integrity", "privacy", "update"}


def test_items_that_nobody_asked_for_are_refused(tmp_path: Path) -> None:
    setting = make_setting(tmp_path / "s", TellingSites("ab", STEADY), experiment=experiment(rounds=1, gates={}))
    run(setting)
    assert {refused.reason for refused in setting.store.find("0.1.1").manifest.federation.refused} == {
        "hold-out: the answer tells more than was asked. Given: 'items'. Rule: no gate may have them"
    }


def test_with_noise_there_are_accuracies_and_their_spread_and_few_rows_decide_nothing(tmp_path: Path) -> None:
    private = replace(experiment(rounds=2), privacy=Privacy(unit="example"))
    setting = make_setting(tmp_path / "s", TellingSites("ab", STEADY, noised=True), experiment=private)
    run(setting)
    report = report_of(setting.store.find("0.1.2"))
    assert report is not None and report.evaluation is None
    quality = [found for found in report.findings if found.gate == "quality"]
    assert quality and {found.state for found in quality} == {"inconclusive"}
    assert verdicts(setting)["0.1.2"] == "held"


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ({"quallity": {}}, "did you mean quality"),
        ({"quality": {"margn": 0.1}}, "margn"),
        ({"quality": {"margin": "much"}}, "gates.quality.margin"),
        ({"quality": {"margin": 2.0}}, "gates.quality.margin"),
        ({"latency": {}}, "fedrelease gate VERSION"),
    ],
)
def test_gates_that_do_not_exist_or_no_round_can_have_are_refused(
    gates: Mapping[str, Mapping[str, float | str]], said: str
) -> None:
    with pytest.raises(ExperimentError, match=said):
        Phase(gates=gates)


def test_a_knob_of_a_gate_that_was_typed_is_named_where_it_was_typed() -> None:
    with pytest.raises(
        ExperimentError,
        match=r"--set phase\.0\.gates\.quality\.margin=2: phase\.0\.gates\.quality\.margin is out of bounds",
    ):
        load_experiment(None, ["phase.0.gates.quality.margin=2"])


def test_a_strategy_that_does_not_wait_cannot_revert(tmp_path: Path) -> None:
    phase = Phase(rounds=2, on_held="revert", strategy=StrategyChoice(name="fedbuff", knobs={"buffer": 1}))
    wanted = replace(experiment(), phases=(phase,))
    with pytest.raises(ExperimentError, match="does not wait"):
        run(make_setting(tmp_path / "s", FakeSites("abc"), experiment=wanted, seconds_of=lambda site, size: 1.0))
