"""Whatever instant the machine stops at, the store has one head, whole files, and every round exactly once."""

import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from faults import Fault, Killed, disk
from release_examples import PROCESSES, make_store, prepare_round, publish_round, publish_until_killed

from fedrelease.errors import StoreError
from fedrelease.server.store import Store
from fedrelease.server.verify import verify


def assert_consistent(store: Store, *, rounds: int) -> None:
    """The base and so many rounds, each once, in the log too; candidate at the head; nothing lies about."""
    report = verify(store)
    assert report.ok, report.problems
    expected = ["0.0.0", *(f"0.1.{round}" for round in range(1, rounds + 1))]
    assert [release.version for release in store.releases()] == expected
    assert [entry.version for entry in store.history()] == expected
    assert [entry.seconds for entry in store.history()] == [1.5] * len(expected)
    assert {store.channels().channels[name].version for name in ("candidate", "canary")} == {expected[-1]}
    assert list((store.folder / "tmp").iterdir()) == []
    assert not list(store.folder.glob(".*.tmp")) and not (store.folder / "publishing.json").exists()


def publish_next(folder: Path, round: int) -> None:
    """What a run does for one round, from opening on."""
    store = Store.create_or_open(folder)
    with store.lock():
        publish_round(store, round)


def lock_and_leave(folder: Path) -> None:
    with Store.open(folder).lock():
        pass


def calls_of(act: Callable[[], None]) -> int:
    with disk(Fault(None)) as fault:
        act()
    return fault.calls


def killed_at(instant: int, act: Callable[[], None]) -> bool:
    """Whether the kill struck before ``act`` was through."""
    with disk(Fault(instant)):
        try:
            act()
        except Killed:
            return True
    return False


@pytest.fixture
def template(tmp_path: Path) -> Path:
    return make_store(tmp_path / "template", rounds=1).folder


def test_a_kill_at_any_call_of_a_publish_leaves_the_old_head_or_the_new_one_and_the_run_goes_on(template: Path) -> None:
    folder, heads = template.parent / "killed", []
    for instant in range(1, _publish_calls(template) + 2):
        shutil.copytree(template, folder)
        struck = killed_at(instant, lambda: publish_next(folder, 2))
        store = Store.open(folder)
        before = store.head()  # readers see a whole head even before anybody recovers
        lock_and_leave(folder)
        heads.append(len(store.releases()) - 1)
        assert store.head() == before
        assert_consistent(store, rounds=heads[-1])
        assert struck or heads[-1] == 2
        if heads[-1] == 1:
            publish_next(folder, 2)
            assert_consistent(store, rounds=2)
        shutil.rmtree(folder)
    assert heads == sorted(heads) and set(heads) == {1, 2}


def test_a_kill_at_any_call_of_the_recovery_after_any_kill_is_recovered_too(template: Path) -> None:
    killed, folder = template.parent / "killed", template.parent / "twice"
    for first in range(1, _publish_calls(template) + 1, 2):
        shutil.copytree(template, killed)
        killed_at(first, lambda: publish_next(killed, 2))
        second, struck = 1, True
        while struck:
            shutil.copytree(killed, folder)
            struck = killed_at(second, lambda: lock_and_leave(folder))
            calls_of(lambda: lock_and_leave(folder))  # without real fsyncs: there are hundreds of cases
            assert_consistent(Store.open(folder), rounds=len(Store.open(folder).releases()) - 1)
            shutil.rmtree(folder)
            second += 1
        shutil.rmtree(killed)


def test_a_kill_at_any_call_of_making_a_store_lets_the_next_run_make_it(tmp_path: Path) -> None:
    for instant in range(1, 200):
        folder = tmp_path / str(instant)
        struck = killed_at(instant, lambda: publish_next(folder, 0))  # noqa: B023
        store = Store.create_or_open(folder)
        with store.lock():
            if store.head() is None:
                publish_round(store, 0)
        assert_consistent(Store.open(folder), rounds=0)
        if not struck:
            return
    raise AssertionError("making a store never ended")


def test_recovering_again_changes_nothing(template: Path) -> None:
    before = {path: path.read_bytes() for path in template.rglob("*") if path.is_file() and path.name != ".lock"}
    lock_and_leave(template)
    after = {path: path.read_bytes() for path in template.rglob("*") if path.is_file() and path.name != ".lock"}
    assert before == after


def test_a_disk_that_fills_up_at_any_call_leaves_the_store_whole_and_the_same_run_can_go_on(template: Path) -> None:
    folder = template.parent / "full"
    with disk(Fault(None, full_disk=True)) as counted:
        shutil.copytree(template, folder)
        start = counted.calls
        publish_next(folder, 2)
    for call in range(1, counted.calls - start + 1):
        shutil.rmtree(folder)
        shutil.copytree(template, folder)
        store = Store.open(folder)
        with disk(Fault(call, full_disk=True)), pytest.raises(StoreError, match="free some space"):
            publish_next(folder, 2)
        assert not list(folder.rglob("*.tmp")) and not list((folder / "tmp").iterdir())
        assert verify(store).ok
        if len(store.releases()) == 2:
            publish_next(folder, 2)
        else:
            lock_and_leave(folder)
        assert_consistent(store, rounds=2)


def test_a_publish_that_met_a_full_disk_can_be_tried_again_under_the_same_lock(template: Path) -> None:
    folder = template.parent / "full"
    for call in range(1, 40):
        shutil.copytree(template, folder)
        store = Store.open(folder)
        with store.lock():
            prepared = prepare_round(store, 2)
            with disk(Fault(call, full_disk=True)), suppress(StoreError):
                store.publish(*prepared)
            store.publish(*prepared)
            publish_round(store, 3)
        assert_consistent(store, rounds=3)
        shutil.rmtree(folder)


def test_a_publish_syncs_each_file_before_it_gets_its_name_and_each_name_before_the_next_step(template: Path) -> None:
    store = Store.open(template)
    with store.lock():
        prepared = prepare_round(store, 2)
        with disk(Fault(None)) as fault:
            store.publish(*prepared)
    manifest = prepared[0].digest.removeprefix("sha256:")
    named = [line for line in fault.trace if line.split()[1] in (manifest, *NAMES) and not line.startswith("mkdir")]
    steps = [line for line in named if not line.startswith("truncate")]
    assert steps == [
        f"replace {manifest}",
        "fsync sha256",
        "fsync sha256",
        "replace publishing.json",
        "fsync template",
        "link 0.1.2.json",
        "fsync versions",
        "fsync versions",
        "open log.jsonl",
        "write log.jsonl",
        "fsync log.jsonl",
        "fsync template",
        "fsync sha256",
        "replace channels.json",
        "fsync template",
        "unlink publishing.json",
        "fsync template",
    ]
    for at, line in enumerate(fault.trace):
        if line.startswith(("link", "replace")):
            assert [step.split()[0] for step in fault.trace[at - 4 : at]] == ["open", "write", "fsync", "chmod"]


ROOMS = ("sha256", "template", "versions")
NAMES = (*ROOMS, "0.1.2.json", "channels.json", "log.jsonl", "publishing.json")


@pytest.mark.slow
def test_a_publisher_that_is_really_killed_loses_no_round_and_counts_none_twice(tmp_path: Path) -> None:
    _kill_publishers(tmp_path / "releases", times=20)


@pytest.mark.slow
def test_two_hundred_real_kills_lose_no_round_and_count_none_twice(tmp_path: Path) -> None:
    _kill_publishers(tmp_path / "releases", times=200)


def _kill_publishers(folder: Path, *, times: int) -> None:
    chance = random.Random(times)
    for _ in range(times):
        here, there = PROCESSES.Pipe(duplex=False)
        publisher = PROCESSES.Process(target=publish_until_killed, args=(folder, there))
        publisher.start()
        there.close()
        told = here.recv()  # the store is open and the loop begins
        time.sleep(chance.random() * 0.05)
        publisher.kill()
        publisher.join()
        publisher.close()
        told = max([told, *_rest(here)])
        lock_and_leave(folder)
        head = Store.open(folder).head()
        rounds = head.manifest.round if head else -1
        assert rounds >= told  # what was told to be published is there
        if head:
            assert_consistent(Store.open(folder), rounds=rounds)


def _rest(pipe: Connection) -> list[int]:
    """What the dead publisher still told."""
    told = []
    with suppress(EOFError), pipe:
        while True:
            told.append(pipe.recv())
    return told


def _publish_calls(template: Path) -> int:
    folder = template.parent / "counted"
    shutil.copytree(template, folder)
    calls = calls_of(lambda: publish_next(folder, 2))
    shutil.rmtree(folder)
    return calls
