"""Moving releases through channels by hand."""

import shutil
from pathlib import Path

import pytest
from faults import Fault, Killed, disk
from release_examples import TIME, make_store, publish_round

from fedrelease.errors import DamagedRelease, ReleaseNotFound, StoreError
from fedrelease.server.lifecycle import By, Moved, anchor, pause, promote, resume, rollback, unyank, yank
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

ADA = By(actor="ada", reason="because", time=TIME)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """0.0.0 to 0.1.3, each of which moved candidate and canary."""
    return make_store(tmp_path / "releases", rounds=3)


def at(store: Store, channel: str) -> str | None:
    pointer = store.channels().channels.get(channel)
    return pointer.version if pointer else None


def promoted(store: Store, *refs: str, to: str = "stable") -> None:
    with store.lock():
        for ref in refs:
            promote(store, ref, to=to, by=ADA)


def test_a_promotion_moves_the_channel_and_tells_who_and_why(store: Store) -> None:
    with store.lock():
        moved = promote(store, "0.1.2", to="stable", by=ADA)
    assert moved == Moved(
        verb="promote", version="0.1.2", generation=5, before={"stable": None}, after={"stable": "0.1.2"}
    )
    line = store.history()[-1]
    assert (line.event, line.version, line.channels, line.actor, line.reason, line.generation) == (
        "promote",
        "0.1.2",
        ("stable",),
        "ada",
        "because",
        5,
    )
    assert store.find("stable").version == "0.1.2" and verify(store).ok


def test_promoting_what_is_there_already_changes_nothing(store: Store) -> None:
    promoted(store, "0.1.2")
    lines = len(store.history())
    with store.lock():
        assert promote(store, "0.1.2", to="stable", by=ADA).after == {}
    assert (len(store.history()), store.channels().generation) == (lines, 5)


def test_a_rollback_goes_to_what_was_serving_before_and_twice_goes_two_back(store: Store) -> None:
    promoted(store, "0.1.1", "0.1.2", "0.1.3")
    with store.lock():
        assert rollback(store, "stable", by=ADA).after == {"stable": "0.1.2"}
        assert rollback(store, "stable", by=ADA).after == {"stable": "0.1.1"}
        with pytest.raises(StoreError, match="nothing to go back to"):
            rollback(store, "stable", by=ADA)
    assert store.channels().generation == 4 + 3 + 2, "what undoes has a higher generation than what it undoes"
    assert verify(store).ok


def test_a_rollback_reads_the_release_before_the_channel_moves(store: Store) -> None:
    promoted(store, "0.1.1", "0.1.2")
    path = store.find("0.1.1").path("adapter")
    path.chmod(0o644)
    path.write_bytes(b"other bytes")
    with store.lock(), pytest.raises(DamagedRelease, match=r"adapter\.safetensors of release 0\.1\.1"):
        rollback(store, "stable", by=ADA)
    assert at(store, "stable") == "0.1.2"


def test_a_yanked_release_loses_its_channels_and_gets_none(store: Store) -> None:
    promoted(store, "0.1.1", "0.1.3")
    with store.lock():
        moved = yank(store, "0.1.3", by=ADA)
        with pytest.raises(StoreError, match="yanked: because"):
            promote(store, "0.1.3", to="beta", by=ADA)
    assert moved.after == {"candidate": "0.1.2", "canary": "0.1.2", "stable": "0.1.1"}
    assert store.find("0.1.3").version == "0.1.3", "who names it gets it"
    with store.lock():
        unyank(store, "0.1.3", by=ADA)
        assert promote(store, "0.1.3", to="stable", by=ADA).after == {"stable": "0.1.3"}
    assert verify(store).ok


def test_a_rollback_goes_past_releases_that_were_yanked(store: Store) -> None:
    promoted(store, "0.1.1", "0.1.2", "0.1.3")
    with store.lock():
        assert yank(store, "0.1.2", by=ADA).after == {}
        assert rollback(store, "stable", by=ADA).after == {"stable": "0.1.1"}


def test_a_channel_whose_only_release_is_yanked_points_at_nothing(store: Store) -> None:
    promoted(store, "0.1.2")
    with store.lock():
        assert yank(store, "0.1.2", by=ADA).after["stable"] is None
    with pytest.raises(ReleaseNotFound):
        store.find("stable")


def test_a_yank_needs_a_reason(store: Store) -> None:
    with store.lock(), pytest.raises(StoreError, match="for a reason"):
        yank(store, "0.1.2", by=By(actor="ada"))


def test_a_paused_channel_is_moved_by_no_round_and_no_promotion_but_back(store: Store) -> None:
    promoted(store, "0.1.1", "0.1.2")
    with store.lock():
        pause(store, "stable", by=ADA)
        pause(store, "canary", by=ADA)
        publish_round(store, 4, channel="stable")
        with pytest.raises(StoreError, match="fedrelease resume stable"):
            promote(store, "0.1.4", to="stable", by=ADA)
        assert rollback(store, "stable", by=ADA).after == {"stable": "0.1.1"}
        resume(store, "stable", by=ADA)
        assert promote(store, "0.1.4", to="stable", by=ADA).after == {"stable": "0.1.4"}
    assert (at(store, "candidate"), at(store, "canary"), store.channels().paused) == ("0.1.4", "0.1.3", ("canary",))


def test_a_held_release_is_promoted_by_nobody(store: Store) -> None:
    with store.lock():
        publish_round(store, 4, verdict="held")
        with pytest.raises(StoreError, match="held by its gates"):
            promote(store, "0.1.4", to="stable", by=ADA)


def test_the_anchor_is_the_first_stable_release_until_somebody_pins_another(store: Store) -> None:
    assert anchor(store) is None
    promoted(store, "0.1.1", "0.1.3")
    assert (found := anchor(store)) and found.version == "0.1.1"
    promoted(store, "0.1.2", to="anchor")
    assert (found := anchor(store)) and found.version == "0.1.2"


def test_a_kill_at_any_call_of_a_move_leaves_the_channel_and_the_log_of_one_mind(store: Store, tmp_path: Path) -> None:
    promoted(store, "0.1.1", "0.1.2")
    seen = set()
    for instant in range(1, 60):
        folder = tmp_path / str(instant)
        shutil.copytree(store.folder, folder)
        opened = Store.open(folder)
        with disk(Fault(instant)):
            try:
                with opened.lock():
                    rollback(opened, "stable", by=ADA)
            except Killed:
                pass
        with Store.open(folder).lock():
            pass
        last = opened.history()[-1]
        assert (last.event, at(opened, "stable")) in {("promote", "0.1.2"), ("rollback", "0.1.1")}
        assert verify(opened).ok
        seen.add(last.event)
    assert seen == {"promote", "rollback"}
