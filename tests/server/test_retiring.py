"""What the numbers of [retention] let go, what stays in spite of them, and what is said of what is gone."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fake_sites import FakeSites, make_setting, run
from faults import Fault, Killed, disk
from full_examples import make_full_store, publish_full
from kept_stores import experiment, kept_store, setting_of
from release_examples import TIME, make_store, prepare_round, publish_round
from test_recompute import buffered
from test_retraction import stopped_after

from fedrelease.errors import ExperimentError, RetiredRelease, StoreError
from fedrelease.experiment import Federation, Phase
from fedrelease.experiment_file import to_toml
from fedrelease.retention import Retention
from fedrelease.server import channels
from fedrelease.server.difference import difference
from fedrelease.server.fsck import fsck
from fedrelease.server.lifecycle import By, promote, rollback
from fedrelease.server.recompute import recompute
from fedrelease.server.repack import repack, to_pack
from fedrelease.server.retiring import Retirement, retention_of, retire, to_retire
from fedrelease.server.retraction import retract
from fedrelease.server.signing import own_signer
from fedrelease.server.store import Store
from fedrelease.server.transfer import pull, push
from fedrelease.server.verify import verify

ADA = By(actor="ada", reason="because", time=TIME)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """0.0.0 to 0.1.6; candidate and canary are at 0.1.6, stable at 0.1.2 and before that at 0.1.1."""
    store = make_store(tmp_path / "releases", rounds=6)
    with store.lock():
        promote(store, "0.1.1", to="stable", by=ADA)
        promote(store, "0.1.2", to="stable", by=ADA)
    return store


def retired(store: Store, **numbers: int) -> Retirement:
    with store.lock():
        return retire(store, Retention(**numbers), by=ADA)


def having(store: Store, role: str = "adapter") -> list[str]:
    """Releases whose file of this role is there."""
    every = [(release, file) for release in store.releases() for file in release.manifest.files if file.role == role]
    return [release.version for release, file in every if store.blob_path(file.sha256).exists()]


def test_the_newest_so_many_keep_their_weights_and_so_does_all_that_something_needs(store: Store) -> None:
    """2 by number: 0.1.5 and 0.1.6. The first that stable pointed at is the anchor; it is also what stable would go back to."""
    found = retired(store, releases=2)
    assert having(store) == having(store, "memory") == ["0.0.0", "0.1.1", "0.1.2", "0.1.5", "0.1.6"]
    assert {one.version: one.why for one in found.staying} == {
        "0.0.0": "it is the base",
        "0.1.1": "stable would go back to it; candidates are compared with it, the anchor",
        "0.1.2": "stable points at it",
    }
    assert {one.rule for one in found.leaving} == {"retention.releases = 2"}


def test_where_the_numbers_say_nothing_nothing_goes_and_nothing_is_read(store: Store) -> None:
    store.blob_path(store.find("0.1.1").digest.removeprefix("sha256:")).unlink()
    assert to_retire(store, Retention()) == Retirement()


def test_a_dry_run_lists_the_same_and_changes_nothing(store: Store) -> None:
    before = sorted(store.folder.rglob("*"))
    planned = to_retire(store, Retention(releases=2))
    assert sorted(store.folder.rglob("*")) == before
    assert retired(store, releases=2) == planned
    assert planned.size == sum(one.size for one in planned.leaving) > 0


def test_memory_may_go_before_the_weights_and_a_release_without_it_still_serves(store: Store) -> None:
    retired(store, memory=1)
    assert having(store, "memory") == ["0.1.6"] and len(having(store)) == 7
    with store.lock():
        assert promote(store, "0.1.4", to="stable", by=ADA).after == {"stable": "0.1.4"}
    assert verify(store).ok


def test_held_releases_have_a_number_of_their_own(tmp_path: Path) -> None:
    store = make_store(tmp_path / "releases", rounds=1)
    with store.lock():
        for round, verdict in enumerate(("held", "released", "held", "released", "released"), start=2):
            publish_round(store, round, verdict=verdict)
    assert {one.version: one.rule for one in to_retire(store, Retention(held=1)).leaving} == {
        "0.1.2": "retention.held = 1"
    }
    assert {one.version for one in to_retire(store, Retention(releases=1, held=2)).leaving} == {"0.1.1", "0.1.3"}


def test_a_file_that_a_release_which_stays_has_too_stays(store: Store) -> None:
    """0.1.7 has the adapter of 0.1.3 again, bit for bit."""
    again = next(file for file in store.find("0.1.3").manifest.files if file.role == "adapter")
    with store.lock():
        manifest, entry = prepare_round(store, 7)
        files = (again, *(file for file in manifest.files if file.role != "adapter"))
        manifest = replace(manifest, files=files)
        store.publish(manifest, replace(entry, digest=manifest.digest))
    retired(store, releases=1)
    assert "0.1.3" in having(store) and "0.1.4" not in having(store)


def test_manifests_reports_and_small_files_stay(store: Store) -> None:
    with store.lock():
        report = store.attach(store.find("0.1.3").digest, "gate-report", b"passed")
    before = [release.digest for release in store.releases()]
    retired(store, releases=1, memory=1)
    assert [release.digest for release in store.releases()] == before and report.read() == b"passed"
    assert store.find("0.1.3").read("adapter_config.json") == b'{"r":8}'


def test_the_record_is_a_line_of_the_log_and_its_generation_names_every_file(store: Store) -> None:
    found = retired(store, releases=2)
    line, move = store.history()[-1], store.channels().move
    assert (line.event, line.version, line.reason, line.actor) == ("retire", "0.1.6", "retention.releases = 2", "ada")
    assert move is not None and move.retired is not None and line.generation == store.channels().generation
    assert {f"blobs/sha256/{sha256}" for sha256 in move.retired.files} == {one.path for one in found.leaving}
    assert (store.folder / "store.json").read_bytes() == b'{"layout":4}'
    assert retired(store, releases=2).leaving == () and len(store.history()) == 10


def test_verify_tells_what_was_retired_when_and_by_which_rule_and_finds_no_fault(store: Store) -> None:
    retired(store, releases=2)
    for report in (verify(store), fsck(store)):
        assert report.ok
        told = {one.version: (one.time, one.rule, one.files) for one in report.retired}
        files = ("adapter.safetensors", "memory.safetensors")
        assert told == dict.fromkeys(("0.1.3", "0.1.4"), (TIME, "retention.releases = 2", files))


def test_a_file_that_is_gone_without_a_record_is_a_problem(store: Store) -> None:
    retired(store, releases=2)
    store.find("0.1.5").path("adapter").unlink()
    (problem,) = verify(store).problems
    assert "adapter.safetensors of 0.1.5" in problem.path and "cannot be read" in problem.what


def test_a_record_does_not_excuse_a_release_that_came_after_it(store: Store) -> None:
    """0.1.7 has the retired adapter of 0.1.3, and lost it by accident."""
    again = next(file for file in store.find("0.1.3").manifest.files if file.role == "adapter")
    data = store.find("0.1.3").read("adapter")
    retired(store, releases=2)
    with store.lock():
        manifest, entry = prepare_round(store, 7)
        store.put_blob(data)
        files = (again, *(file for file in manifest.files if file.role != "adapter"))
        manifest = replace(manifest, files=files)
        store.publish(manifest, replace(entry, digest=manifest.digest))
    store.blob_path(again.sha256).unlink()
    assert [problem.path for problem in verify(store).problems] == [
        f"blobs/sha256/{again.sha256} (adapter.safetensors of 0.1.7)"
    ]


def test_a_retired_release_is_refused_with_the_day_the_rule_and_the_way_out(store: Store) -> None:
    retired(store, releases=2)
    release = store.find("0.1.3")
    said = (
        r"adapter\.safetensors of release 0\.1\.3 was retired on 2031-05-01.*retention\.releases = 2.*fedrelease pull"
    )
    with pytest.raises(RetiredRelease, match=said):
        release.state()
    with pytest.raises(RetiredRelease, match=said):
        difference(release, store.find("0.1.6"))
    with store.lock(), pytest.raises(RetiredRelease, match=said):
        promote(store, "0.1.3", to="beta", by=ADA)


def test_a_rollback_goes_to_what_served_before_and_never_past_what_was_retired(store: Store) -> None:
    with store.lock():
        for version in ("0.1.3", "0.1.4", "0.1.5"):
            promote(store, version, to="stable", by=ADA)
    retired(store, releases=1)
    with store.lock():
        assert rollback(store, "stable", by=ADA).after == {"stable": "0.1.4"}
        with pytest.raises(RetiredRelease, match=r"0\.1\.3 was retired"):
            rollback(store, "stable", by=ADA)


def test_what_a_packed_release_that_stays_stands_on_stays_and_packing_goes_on(tmp_path: Path) -> None:
    """0.1.2 stands on 0.1.1, and that on 0.1.0; 0.1.9 on 0.1.8, which stands by itself."""
    store = make_full_store(tmp_path / "releases", rounds=10)
    with store.lock():
        promote(store, "0.1.2", to="beta", by=ADA)
        list(repack(store, to_pack(store)))
    retired(store, releases=1)
    for version in ("0.1.0", "0.1.1", "0.1.2", "0.1.8", "0.1.9"):
        assert store.find(version).state()["head.bias"].tolist() == [float(version[-1])] * 3
    with pytest.raises(RetiredRelease):
        store.find("0.1.3").state()
    with store.lock():
        publish_full(store, 10)
        list(repack(store, to_pack(store)))
    retired(store, releases=1)
    assert fsck(store).flaws == () and store.find("0.1.10").state()["head.bias"].tolist() == [10.0] * 3


def test_updates_have_a_number_and_what_their_rounds_are_computed_from_stays(tmp_path: Path) -> None:
    """Rounds 2 and 3 keep theirs, so 0.1.1 and 0.1.2 keep state and memory; round 1 is told to be retired."""
    store = kept_store(tmp_path / "s", experiment(name="fedavgm"))
    retired(store, releases=1, updates=2, memory=1)
    assert sorted(path.name for path in (store.folder / "spool").iterdir()) == ["0.1.2", "0.1.3"]
    found = {one.version: (one.outcome, one.what) for one in recompute(store)}
    assert found["0.1.1"][0] == "no-spool" and "were retired on 2031-05-01" in found["0.1.1"][1]
    assert (found["0.1.2"], found["0.1.3"]) == (("same", ""), ("same", ""))
    with store.lock(), pytest.raises(StoreError, match=r"updates of 0\.1\.1 were retired on 2031-05-01"):
        retract(store, "c", by=ADA)


def test_a_round_whose_own_weights_are_gone_comes_out_again_from_its_updates(tmp_path: Path) -> None:
    """Of five rounds: 0.1.3 is nobody's parent, once the next two were held and reverted."""
    wanted = experiment(Phase(name="pilot", rounds=5))
    store = kept_store(tmp_path / "s", wanted)
    retired(store, releases=1, updates=3)
    assert having(store) == ["0.0.0", "0.1.1", "0.1.2", "0.1.3", "0.1.4", "0.1.5"], "0.1.1: the first that was stable"
    assert [one.outcome for one in recompute(store)] == ["no-spool"] * 2 + ["same"] * 3


def test_a_run_goes_on_after_its_older_releases_were_retired_to_the_same_digest(tmp_path: Path) -> None:
    wanted = experiment(Phase(name="pilot", rounds=3), Phase(name="broad", rounds=2), keep=False)
    whole = kept_store(tmp_path / "whole", wanted)
    store = stopped_after(tmp_path / "s", "0.1.3", wanted)
    retired(store, releases=1, held=0, memory=0, updates=0)
    run(setting_of(store.folder, wanted))
    assert [one.digest for one in store.releases()] == [one.digest for one in whole.releases()]


def test_a_copy_keeps_what_it_has_gets_only_what_is_there_and_gives_it_back(store: Store, tmp_path: Path) -> None:
    archive, late = tmp_path / "archive", tmp_path / "late"
    push(store, str(archive))
    retired(store, releases=2)
    push(store, str(archive))
    push(store, str(late))
    assert len(having(Store.open(archive))) == 7 and verify(Store.open(archive)).retired == ()
    assert having(Store.open(late)) == having(store)
    for folder in (archive, late):
        assert fsck(Store.open(folder)).flaws == () and Store.open(folder).history() == store.history()
    pull(str(archive), store.folder)
    assert len(having(store)) == 7 and verify(store).retired == () and fsck(store).flaws == ()
    retired(store, releases=2)
    assert len(having(store)) == 5


def test_in_a_signed_store_a_record_that_nobody_signed_is_told(tmp_path: Path) -> None:
    """Somebody without the keys removes a file and writes a generation that says so."""
    signer = own_signer(tmp_path / "keys")
    store = make_store(tmp_path / "releases", rounds=4, signer=signer)
    retired(store, releases=2)
    assert verify(store, home=signer.home).ok
    move, path = store.channels().move, store.find("0.1.3").path("adapter")
    assert move is not None and move.retired is not None
    told = replace(move, retired=replace(move.retired, files=(path.name,)))
    channels.write(store.folder, store.channels().again(told))
    path.unlink()
    report = verify(store, home=signer.home)
    assert [problem.path for problem in report.problems] == ["channels.json"]
    assert "somebody without the key moved the channels" in report.problems[0].what


def test_numbers_come_from_the_stores_experiment_and_may_be_others_for_once(store: Store) -> None:
    path = store.folder / "experiment.toml"
    assert retention_of(store) == Retention()
    made = replace(experiment(), federation=Federation(), retention=Retention(releases=3, held=1))
    path.write_text(to_toml(made))
    assert retention_of(store) == Retention(releases=3, held=1)
    assert retention_of(store, ["retention.releases=9", "retention.held=none"]) == Retention(releases=9)
    with pytest.raises(ExperimentError, match="keys of .retention. only"):
        retention_of(store, ["training.lr=1"])
    with pytest.raises(ExperimentError, match="is at least 1"):
        retention_of(store, ["retention.releases=0"])


def test_numbers_change_no_digest_of_any_release(tmp_path: Path) -> None:
    plain = kept_store(tmp_path / "plain", experiment())
    tidy = kept_store(tmp_path / "tidy", replace(experiment(), retention=Retention(releases=1, updates=0)))
    assert [one.digest for one in tidy.releases()] == [one.digest for one in plain.releases()]


def with_updates(folder: Path) -> Store:
    store = make_store(folder, rounds=4)
    for version in ("0.1.1", "0.1.2"):
        (store.folder / "spool" / version).mkdir(parents=True)
        (store.folder / "spool" / version / "a.json").write_bytes(b"update")
    return store


def test_a_kill_at_any_call_of_a_retirement_leaves_a_whole_store_and_the_next_one_goes_on(tmp_path: Path) -> None:
    """After every call: nothing that fsck finds, no file gone without a record, and the same end."""
    original, folder = with_updates(tmp_path / "original"), tmp_path / "killed"
    numbers, instant, struck = {"releases": 1, "updates": 0}, 1, True
    there = list[int]()
    while struck:
        shutil.copytree(original.folder, folder)
        killed, struck = Store.open(folder), False
        with disk(Fault(instant)):
            try:
                retired(killed, **numbers)
            except Killed:
                struck = True
        with disk(Fault(None)):
            assert verify(killed).ok
            there.append(len(having(killed)))
            with killed.lock():
                pass
            assert fsck(killed).flaws == ()
            retired(killed, **numbers)
            assert having(killed) == ["0.0.0", "0.1.3", "0.1.4"] and fsck(killed).flaws == ()
            assert list((folder / "spool").iterdir()) == []
            assert [line.event for line in killed.history()].count("retire") == 1
        shutil.rmtree(folder)
        instant += 2
    assert there == sorted(there, reverse=True) and {5, 4, 3} == set(there)


def test_no_number_lets_the_sites_that_are_under_way_lose_where_they_began(tmp_path: Path) -> None:
    wanted = buffered(keep=False)
    seconds = {"a": 1.0, "b": 1.0, "c": 5.0, "d": 2.5}
    setting = make_setting(
        tmp_path / "s", FakeSites("abcd"), experiment=wanted, seconds_of=lambda site, size: seconds[site]
    )
    run(setting)
    store = setting.store
    more = replace(wanted, phases=(replace(wanted.phases[0], rounds=6),))
    (store.folder / "experiment.toml").write_text(to_toml(more))
    assert to_retire(store, Retention(releases=1)).leaving == ()
    (store.folder / "experiment.toml").write_text(to_toml(wanted))
    assert {one.version for one in to_retire(store, Retention(releases=1)).leaving} == {"0.1.2"}
