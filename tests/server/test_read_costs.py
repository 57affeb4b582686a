"""What publishing and verifying read, counted: what a release costs must not grow with the store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from faults import Fault, disk
from reads import Reads, reads
from release_examples import TIME, prepare_round, publish_round
from signed_examples import own_signer

from fedrelease.errors import ReleaseNotFound
from fedrelease.server.channels import FirstPointed, Move, Pointer, first_pointed, generations
from fedrelease.server.fsck import fsck
from fedrelease.server.lifecycle import anchor
from fedrelease.server.release import by_digest
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

ROUNDS = 60


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[int, Reads]]:
    """A signed store, and what publishing each of its releases read. The files of a release were there already."""
    folder = tmp_path_factory.mktemp("grown")
    store = Store.create_or_open(folder / "releases", signer=own_signer(folder / "keys"))
    seen = dict[int, Reads]()
    with disk(Fault(None)), store.lock():  # without real fsyncs
        for round in range(ROUNDS + 1):
            prepared = prepare_round(store, round, channel="stable")
            with reads() as seen[round]:
                store.publish(*prepared)
    return store, seen


def test_publishing_the_sixtieth_release_reads_as_much_as_publishing_the_twentieth(
    grown: tuple[Store, dict[int, Reads]],
) -> None:
    early, late = grown[1][20], grown[1][ROUNDS]
    assert sum(early.opened.values()) == sum(late.opened.values()) > 0
    assert (late.bytes, late.listed) == (early.bytes, early.listed)  # both versions have two digits, in every file


def test_a_signed_publish_flushes_to_disk_twenty_three_times(grown: tuple[Store, dict[int, Reads]]) -> None:
    # the manifest 3, two signatures in folders of their own 4 each, the note 2, the version 2, and at the end
    # versions/ again 1, the line of the log 2, the old channels 2, the new ones 2, and that the note is gone 1
    assert {seen.flushed for round, seen in grown[1].items() if round > 1} == {3 + 2 * 4 + 2 + 2 + 1 + 2 + 2 + 2 + 1}


def test_verifying_reads_each_manifest_each_generation_and_each_version_once(
    grown: tuple[Store, dict[int, Reads]],
) -> None:
    store, _ = grown
    with reads() as seen:
        assert verify(store).ok
    manifests = [release.digest.removeprefix("sha256:") for release in store.releases()]
    before = [str(one.previous) for one in generations(store.folder) if one.previous]
    assert {name: seen.opened[name] for name in (*manifests, *before)} == dict.fromkeys((*manifests, *before), 1)
    assert [seen.opened[f"0.1.{round}.json"] for round in range(1, ROUNDS)] == [1] * (ROUNDS - 1)
    assert len(before) == ROUNDS


@pytest.mark.parametrize("check", [verify, fsck])
def test_what_a_check_reads_grows_with_the_releases_and_not_with_their_square(
    tmp_path: Path, check: Callable[[Store], object]
) -> None:
    store, opened = Store.create_or_open(tmp_path / "releases"), list[int]()
    for first in (10, 20, 30):
        with disk(Fault(None)), store.lock():
            for round in range(first, first + 10):
                publish_round(store, round)
        with reads() as seen:
            check(store)
        opened.append(sum(seen.opened.values()))
    assert opened[2] - opened[1] == opened[1] - opened[0] > 0


def test_a_release_is_found_by_its_digest_without_looking_at_another_one(
    grown: tuple[Store, dict[int, Reads]],
) -> None:
    store, _ = grown
    release = store.find("0.1.7")
    with reads() as seen:
        assert by_digest(store.folder, release.digest) == release
    assert seen.opened == {release.digest.removeprefix("sha256:"): 1, "0.1.7.json": 1}


def test_a_manifest_that_was_never_committed_is_no_release(tmp_path: Path) -> None:
    store = Store.create_or_open(tmp_path / "releases")
    with store.lock():
        publish_round(store, 0)
        manifest, _ = prepare_round(store, 1)
        store.put_blob(manifest.to_bytes())
        with pytest.raises(ReleaseNotFound):
            by_digest(store.folder, manifest.digest)
        other = replace(manifest, round=7)  # the version exists, with another digest
        publish_round(store, 1)
        store.put_blob(other.to_bytes())
        with pytest.raises(ReleaseNotFound):
            by_digest(store.folder, other.digest)


def test_the_first_release_of_stable_is_looked_for_once_and_then_only_in_what_came_since(tmp_path: Path) -> None:
    store = Store.create_or_open(tmp_path / "releases")
    with disk(Fault(None)), store.lock():
        for round in range(20):
            publish_round(store, round, channel="stable" if round > 2 else "canary")
        assert anchor(store) == store.find("0.1.3")
        publish_round(store, 20, channel="stable")
        with reads() as seen:
            assert anchor(store) == store.find("0.1.3")
    before = [str(one.previous) for one in generations(store.folder) if one.previous]
    assert [seen.opened[name] for name in before] == [1] + [0] * 19


@pytest.mark.parametrize("known", [None, 1, 3, 6])
def test_what_a_channel_pointed_at_first_is_the_same_from_wherever_it_was_known(
    tmp_path: Path, known: int | None
) -> None:
    store, told = Store.create_or_open(tmp_path / "releases"), {None: FirstPointed()}
    with disk(Fault(None)), store.lock():
        for round in range(1, 8):
            publish_round(store, round, channel="beta" if round in (4, 5) else "canary")
            told[round] = first_pointed(store.folder, "beta", FirstPointed())
    assert first_pointed(store.folder, "beta", told[known]).pointer == Pointer(
        version="0.1.4", digest=store.find("0.1.4").digest
    )


def test_a_channel_that_points_nowhere_any_more_still_has_its_first_release(tmp_path: Path) -> None:
    store = Store.create_or_open(tmp_path / "releases")
    with store.lock():
        publish_round(store, 0, channel="beta")
        publish_round(store, 1)
        line = replace(store.history()[-1], event="yank", version="0.0.0", digest=store.find("0.0.0").digest)
        store.move(store.channels().then({"beta": None}, Move(verb="yank", actor="ada", time=TIME)), line)
        assert "beta" not in store.channels().channels
        first = store.first_pointed("beta")
    assert first is not None and first.version == "0.0.0"
