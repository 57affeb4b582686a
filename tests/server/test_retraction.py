"""The line of releases without a site's updates."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_sites import START, FakeSites, make_setting, moved, run
from kept_stores import experiment, kept_store, setting_of
from test_judging import TellingSites

from fedrelease.errors import ExperimentError, StoreError
from fedrelease.experiment import Experiment, Federation, Phase, StrategyChoice
from fedrelease.server import retraction as module
from fedrelease.server.going_on import rounds_left
from fedrelease.server.judging import report_of
from fedrelease.server.lifecycle import By, promote
from fedrelease.server.recompute import recompute
from fedrelease.server.rejudging import rejudge
from fedrelease.server.retracted import retraction_of
from fedrelease.server.retraction import Retracted, retract
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

BY = By(actor="ada", reason="it asked to leave", time="2031-05-01T12:00:00+00:00")
FIVE = experiment(Phase(name="pilot", rounds=2), Phase(name="broad", rounds=3))


class Stopped(Exception):
    """Stands in for a crash."""


def without(store: Store, site: str) -> Retracted:
    with store.lock():
        return retract(store, site, by=BY)


def versions(store: Store) -> list[str]:
    return [release.version for release in store.releases()]


def test_a_line_without_a_site_is_the_sum_of_the_others_updates(tmp_path: Path) -> None:
    """fedavg: the start plus each round's mean over a and b of what they sent, which is kept as it was."""
    store = kept_store(tmp_path / "s")
    done = without(store, "c")
    assert done.rebuilt == (("0.1.1", "0.1.4"), ("0.1.2", "0.1.5"), ("0.1.3", "0.1.6"))
    state = torch.zeros(2)
    for old, new, before in (("0.1.1", "0.1.4", "0.0.0"), ("0.1.2", "0.1.5", "0.1.1"), ("0.1.3", "0.1.6", "0.1.2")):
        start = store.find(before).state()
        sent = [moved(site, old, start)["head.bias"] - start["head.bias"] for site in "ab"]
        state = state + (sent[0] + sent[1]) / 2
        assert torch.allclose(store.find(new).state()["head.bias"], state, atol=1e-5)


def test_a_rebuilt_release_says_what_it_replaces_and_who_is_gone(tmp_path: Path) -> None:
    store = kept_store(tmp_path / "s")
    old = store.find("0.1.2").digest
    without(store, "c")
    release = store.find("0.1.5")
    told, federation = retraction_of(release), release.manifest.federation
    assert told is not None and (told.sites, told.replaces.digest, told.line.version) == (("c",), old, "0.1.3")
    assert (told.actor, told.reason) == ("ada", "it asked to leave")
    assert [one.site for one in federation.accepted] == ["a", "b"]
    assert [(one.site, one.reason) for one in federation.refused] == [("c", "retracted")]
    assert (release.manifest.phase, release.manifest.round) == ("pilot", 2)
    assert release.manifest.parents == (store.find("0.1.4").digest,)
    assert store.history()[-2].reason == "rebuilds 0.1.2 without c: it asked to leave"


def test_nothing_that_was_released_changes_and_no_channel_moves(tmp_path: Path) -> None:
    store = kept_store(tmp_path / "s")
    before = {release.version: release.digest for release in store.releases()}
    channels = store.channels()
    done = without(store, "c")
    after = {release.version: release.digest for release in store.releases()}
    assert before.items() <= after.items() and store.channels() == channels
    assert done.serving == {"candidate": "0.1.3", "stable": "0.1.3"}
    assert verify(store).ok
    with store.lock():
        assert promote(store, done.head, to="stable", by=BY).after == {"stable": "0.1.6"}


def test_rounds_before_the_site_came_stay_as_they_are(tmp_path: Path) -> None:
    wanted = experiment(Phase(name="one", rounds=2, sites=("a", "b")), Phase(name="two", rounds=2))
    store = kept_store(tmp_path / "s", wanted)
    assert without(store, "c").rebuilt == (("0.2.1", "0.2.3"), ("0.2.2", "0.2.4"))
    assert store.find("0.2.3").manifest.parents == (store.find("0.1.2").digest,)


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "scaffold"])
def test_a_strategys_memory_is_that_of_the_rebuilt_line(tmp_path: Path, name: str) -> None:
    """Recomputing starts from the rebuilt parent's memory and must find every bit again."""
    store = kept_store(tmp_path / "s", experiment(name=name))
    without(store, "b")
    found = {one.version: one.outcome for one in recompute(store)}
    assert set(found.values()) == {"same"} and len(found) == 6
    assert store.find("0.1.6").memory()[next(iter(store.find("0.1.3").memory()))].any()


def test_a_second_site_is_retracted_from_the_rebuilt_line_and_stays_out_with_the_first(tmp_path: Path) -> None:
    store = kept_store(tmp_path / "s")
    without(store, "c")
    done = without(store, "b")
    assert (done.sites, done.rebuilt[0]) == (("b", "c"), ("0.1.4", "0.1.7"))
    start = store.find("0.0.0").state()["head.bias"]
    assert torch.allclose(store.find("0.1.7").state()["head.bias"], moved("a", "0.1.1", START)["head.bias"] - start)
    assert {one.outcome for one in recompute(store)} == {"same"}


def test_a_missing_spool_is_refused_with_the_rounds_and_the_key(tmp_path: Path) -> None:
    store = kept_store(tmp_path / "s", experiment(keep=False))
    with pytest.raises(StoreError, match=r"updates of 0\.1\.1, 0\.1\.2, 0\.1\.3 were not kept.*keep_updates"):
        without(store, "c")
    assert len(versions(store)) == 4


@pytest.mark.parametrize(
    ("site", "names", "said"), [("x", "abc", "has an update of x.*a, b, c"), ("a", "a", "0 updates are left")]
)
def test_a_line_that_cannot_be_rebuilt_is_refused_before_anything_is_released(
    tmp_path: Path, site: str, names: Sequence[str], said: str
) -> None:
    store = kept_store(tmp_path / "s", names=names)
    with pytest.raises(StoreError, match=said):
        without(store, site)
    assert len(versions(store)) == 4


def test_a_round_that_does_not_wait_for_all_cannot_be_rebuilt(tmp_path: Path) -> None:
    choice = StrategyChoice(name="fedbuff", knobs={"buffer": 0.5})
    wanted = experiment(Phase(name="pilot", rounds=2, strategy=choice))
    setting = make_setting(tmp_path / "s", FakeSites("abcd"), experiment=wanted, seconds_of=lambda site, size: 1.0)
    run(setting)
    site = setting.store.find("0.1.1").manifest.federation.accepted[0].site
    with pytest.raises(StoreError, match="fedbuff, which does not wait"):
        without(setting.store, site)


@pytest.mark.parametrize("after", [1, 2])
def test_a_retraction_that_was_killed_is_finished_by_the_same_call_to_the_same_digests(
    tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = kept_store(tmp_path / "whole"), kept_store(tmp_path / "killed")
    without(whole, "c")
    real, calls = module._publish, list[object]()

    def publish(*given: object) -> object:
        if len(calls) == after:
            raise Stopped
        calls.append(given)
        return real(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(module, "_publish", publish)
        without(killed, "c")
    with pytest.raises(StoreError, match="was interrupted.*fedrelease retract c"):
        rounds_left(killed, experiment())
    with pytest.raises(StoreError, match="another retraction"):
        without(killed, "b")
    done = without(killed, "c")
    assert done.rebuilt == (("0.1.1", "0.1.4"), ("0.1.2", "0.1.5"), ("0.1.3", "0.1.6"))
    assert [one.digest for one in killed.releases()] == [one.digest for one in whole.releases()]


def stopped_after(folder: Path, version: str, wanted: Experiment) -> Store:
    def stop(event: object) -> None:
        if getattr(event, "version", None) == version and hasattr(event, "digest"):
            raise Stopped

    setting = setting_of(folder, wanted, watch=stop)
    with pytest.raises(Stopped):
        run(setting)
    return setting.store


def test_a_run_goes_on_from_the_rebuilt_line_under_higher_versions_and_asks_the_others_only(tmp_path: Path) -> None:
    store = stopped_after(tmp_path / "s", "0.2.1", FIVE)
    without(store, "c")
    assert versions(store)[-3:] == ["0.2.2", "0.2.3", "0.2.4"]
    sites = FakeSites("abc")
    run(setting_of(store.folder, FIVE, sites=sites))
    assert versions(store)[-2:] == ["0.2.5", "0.2.6"]
    assert store.find("0.2.5").manifest.parents == (store.find("0.2.4").digest,)
    assert [store.find(version).manifest.round for version in ("0.2.4", "0.2.5", "0.2.6")] == [3, 4, 5]
    assert {site for _, _, site in sites.asked} == {"a", "b"}
    assert verify(store).ok and {one.outcome for one in recompute(store)} == {"same"}


def test_between_two_phases_the_next_phase_has_its_own_versions(tmp_path: Path) -> None:
    store = stopped_after(tmp_path / "s", "0.1.2", FIVE)
    without(store, "c")
    assert [planned.version for planned in rounds_left(store, FIVE)] == ["0.2.1", "0.2.2", "0.2.3"]


def test_a_finished_plan_stays_finished(tmp_path: Path) -> None:
    store = kept_store(tmp_path / "s")
    without(store, "c")
    sites = FakeSites("abc")
    run(setting_of(store.folder, experiment(), sites=sites))
    assert sites.asked == [] and store.head() is not None and versions(store)[-1] == "0.1.6"


def test_a_round_whose_sites_may_have_begun_from_replaced_releases_is_refused(tmp_path: Path) -> None:
    late = Phase(name="late", rounds=2, strategy=StrategyChoice(name="fedbuff", knobs={"buffer": 0.5}))
    wanted = experiment(Phase(name="pilot", rounds=2), late)
    setting = replace(setting_of(tmp_path / "s", wanted), seconds_of=lambda site, size: 1.0)
    stopping = replace(setting, watch=lambda event: _stop_at(event, "0.1.2"))
    with pytest.raises(Stopped):
        run(stopping)
    without(setting.store, "c")
    with pytest.raises(ExperimentError, match="fedbuff cannot go on after a retraction"):
        run(setting)


def _stop_at(event: object, version: str) -> None:
    if getattr(event, "version", None) == version and hasattr(event, "digest"):
        raise Stopped


def test_gates_that_need_answers_are_not_asked_of_a_rebuilt_release_and_what_was_held_stays_held(
    tmp_path: Path,
) -> None:
    right = {"0.0.0": 300, "0.1.1": 320, "0.1.2": 280}
    wanted = replace(
        experiment(Phase(name="pilot", rounds=2, gates={"quality": {"margin": 0.02}})),
        federation=Federation(keep_updates=True),
    )
    setting = make_setting(tmp_path / "s", TellingSites("ab", right), experiment=wanted)
    run(setting)
    done = without(setting.store, "b")
    assert done.held == ("0.1.4",)
    first = setting.store.find("0.1.3")
    report = report_of(first)
    assert report is not None and "quality" not in {finding.gate for finding in report.findings}
    assert rejudge(setting.store, first).report == report
