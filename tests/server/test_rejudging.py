"""Gates asked again, from what was kept."""

from pathlib import Path

import pytest
from fake_sites import FakeSites, make_experiment, make_setting, run
from test_judging import DROP, STEADY, experiment, setting_of

from fedrelease.errors import StoreError
from fedrelease.server.attachments import attachments_folder
from fedrelease.server.gates import GateReport
from fedrelease.server.gather import Setting
from fedrelease.server.judging import Measured, attach_report, compared_with, report_of
from fedrelease.server.rejudging import named, rejudge


@pytest.fixture
def held(tmp_path: Path) -> Setting:
    """0.1.2 is worse than 0.1.1 and was held; it lies between two that are alike."""
    setting = setting_of(tmp_path / "s", DROP, experiment(), [])
    run(setting)
    return setting


@pytest.mark.parametrize("version", ["0.1.1", "0.1.2", "0.1.3"])
def test_the_gates_say_again_what_they_said_byte_for_byte(held: Setting, version: str) -> None:
    release = held.store.find(version)
    again = rejudge(held.store, release)
    kept = report_of(release)
    assert kept is not None and again.report.to_bytes() == kept.to_bytes()
    assert not again.is_new


def test_a_report_with_privacy_and_refused_sites_comes_out_again_too(tmp_path: Path) -> None:
    sites = FakeSites("abc", private=True)
    setting = make_setting(tmp_path / "s", sites, experiment=make_experiment(unit="example"))
    run(setting)
    for version in ("0.1.1", "0.1.2"):
        assert not rejudge(setting.store, setting.store.find(version)).is_new


def test_against_another_release_the_verdict_may_be_another_one(held: Setting) -> None:
    release = held.store.find("0.1.2")
    assert rejudge(held.store, release).report.verdict == "fail"
    again = rejudge(held.store, release, others=named(held.store, "0.1.2"))
    assert again.is_new and again.report.verdict == "pass"
    assert {finding.against for finding in again.report.findings} == {None, "release 0.1.2"}


def test_now_compares_with_what_serves_today(held: Setting) -> None:
    again = rejudge(held.store, held.store.find("0.1.2"), others=compared_with(held.store))
    against = {finding.against for finding in again.report.findings if finding.against}
    assert against == {"stable 0.1.3", "anchor 0.1.1"} and again.report.verdict == "fail"


def test_a_later_report_does_not_change_what_a_repetition_compares_with(held: Setting) -> None:
    release = held.store.find("0.1.2")
    other = rejudge(held.store, release, others=named(held.store, "0.0.0"))
    with held.store.lock():
        attach_report(held.store, other.report)
        attach_report(held.store, other.report)
    assert len(list(attachments_folder(held.store.folder, release.digest).iterdir())) == 2
    again = rejudge(held.store, release)
    assert not again.is_new and "anchor 0.1.1" in {finding.against for finding in again.report.findings}


def test_the_base_has_no_gates_and_a_lost_report_is_told_with_the_way_out(held: Setting) -> None:
    with pytest.raises(StoreError, match="it is the base"):
        rejudge(held.store, held.store.find("0.0.0"))
    release = held.store.find("0.1.1")
    for path in attachments_folder(held.store.folder, release.digest).iterdir():
        path.unlink()
    with pytest.raises(StoreError, match=r"no gate report of 0\.1\.1 is kept.*--now"):
        rejudge(held.store, release)
    assert rejudge(held.store, release, others=named(held.store, "0.0.0")).report.verdict == "pass"


@pytest.mark.parametrize(("slower", "state"), [(1.0, "pass"), (2.0, "fail")])
def test_what_was_measured_is_judged_and_findings_are_added_to_the_others(
    tmp_path: Path, slower: float, state: str
) -> None:
    setting = setting_of(tmp_path / "s", STEADY, experiment(rounds=2), [])
    run(setting)
    times = tuple(0.01 + 0.0001 * (turn % 3) for turn in range(30))
    measured = {
        "0.1.2": Measured(seconds=tuple(slower * one for one in times), memory_bytes=int(1000 * slower)),
        "0.1.1": Measured(seconds=times, memory_bytes=1000),
    }
    again = rejudge(setting.store, setting.store.find("0.1.2"), measured=measured)
    found = {finding.gate: finding.state for finding in again.report.findings}
    assert again.is_new and (found["latency"], found["memory"]) == (state, state)
    assert isinstance(again.report, GateReport) and found["quality"] == "pass"
