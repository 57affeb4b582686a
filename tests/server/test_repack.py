"""Whole models packed: the same bytes from fewer, whatever happens in between."""

import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import zstandard
from faults import Fault, Killed, disk
from full_examples import make_full_store, publish_full, weights
from release_examples import make_store

from fedrelease.errors import DamagedRelease
from fedrelease.files import canonical_bytes, digest_bytes
from fedrelease.server.fsck import fsck
from fedrelease.server.packed import packed_facts, packed_path
from fedrelease.server.repack import Packed, repack, to_pack
from fedrelease.server.store import Store
from fedrelease.server.verify import verify
from fedrelease.update import state_bytes


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What is decoded lies here, not in the system's folder; a process asks once, so it is asked to forget."""
    monkeypatch.setattr("fedrelease.server.packed._rooms", {})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path


def packed(store: Store) -> list[Packed]:
    with store.lock():
        return list(repack(store, to_pack(store)))[::-1]


def test_packed_releases_read_as_before_and_the_raw_files_are_gone(tmp_path: Path) -> None:
    store = make_full_store(tmp_path / "releases", rounds=3)
    done = packed(store)
    assert [one.step.version for one in done] == ["0.1.0", "0.1.1", "0.1.2"]
    for round, release in enumerate(store.releases()):
        sha256 = release.manifest.files[0].sha256
        assert not store.blob_path(sha256).exists() and packed_path(store.folder, sha256).is_file()
        assert release.read("adapter") == weights(round)
        assert release.state()["head.bias"].tolist() == [round] * 3
    assert verify(store).ok and fsck(store).ok and to_pack(store) == ()


def test_every_eighth_release_stands_alone_and_the_others_on_the_one_before_them(tmp_path: Path) -> None:
    store = make_full_store(tmp_path / "releases", rounds=10)
    packed(store)
    names = [release.manifest.files[0].sha256 for release in store.releases()]
    frames = [packed_facts(store.folder, name).keyframe for name in names]
    assert frames == [None, *names[:7], None, names[8]]
    with store.lock():
        publish_full(store, 10)
    packed(store)
    head = store.find("0.1.10").manifest.files[0].sha256
    assert packed_facts(store.folder, head).keyframe == names[9], "what came later goes on where it was"


def test_a_line_is_never_longer_than_eight_whatever_was_collected_in_between(tmp_path: Path) -> None:
    store = make_full_store(tmp_path / "releases", rounds=5)
    packed(store)
    for round in (1, 2, 3):  # as gc does: the release goes, its file stays while others stand on it
        (store.folder / "versions" / f"0.1.{round}.json").unlink()
    with store.lock():
        for round in range(5, 11):
            publish_full(store, round)
    steps = to_pack(store)
    assert [step.version for step in steps if step.keyframe is None] == ["0.1.8"]


def test_a_store_that_was_packed_with_xor_still_reads_and_goes_on(tmp_path: Path) -> None:
    store = make_full_store(tmp_path / "releases", rounds=3)
    frame, second = (release.manifest.files[0].sha256 for release in store.releases()[:2])
    changed = bytes(one ^ other for one, other in zip(weights(1), weights(0), strict=True))
    payload = zstandard.compress(b"".join(changed[place::4] for place in range(4)))  # a whole number of numbers
    line = {"keyframe": frame, "payload": digest_bytes(payload), "size": len(changed), "width": 4}
    path = packed_path(store.folder, second)
    path.parent.mkdir(parents=True)
    path.write_bytes(canonical_bytes(line) + b"\n" + payload)
    store.blob_path(second).unlink()
    assert packed_facts(store.folder, second).encoding == "xor"
    assert [one.step.version for one in packed(store)] == ["0.1.0", "0.1.2"]
    assert [release.read("adapter") for release in store.releases()] == [weights(round) for round in range(3)]


def test_reading_a_line_keeps_one_keyframe_and_not_all_of_them(tmp_path: Path, room: Path) -> None:
    store = make_full_store(tmp_path / "releases", rounds=6)
    packed(store)
    assert store.find("0.1.5").read("adapter") == weights(5)
    kept = [path.suffix for path in room.glob("fedrelease-*/*")]
    assert sorted(kept) == ["", ".frame"], "what was read, and the release before it"


def test_a_step_away_from_a_keyframe_takes_less_than_the_keyframe_and_both_less_than_raw(tmp_path: Path) -> None:
    first, second = packed(make_full_store(tmp_path / "releases", rounds=2))
    assert second.after < first.after < first.before == second.before


def test_bytes_of_any_length_width_and_beyond_a_piece_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedrelease.server.packed.PIECE", 1 << 10)
    store, chance = Store.create_or_open(tmp_path / "releases"), random.Random(3)
    states = [
        {
            "a": torch.arange(4000, dtype=kind) + seed,
            "odd": torch.tensor([seed] * chance.randrange(1, 9), dtype=torch.uint8),
        }
        for seed in range(2)
        for kind in (torch.float32, torch.bfloat16, torch.float64)
    ]
    with store.lock():
        for round, state in enumerate(states):
            publish_full(store, round, data=state_bytes(state))
    packed(store)
    assert [release.read("adapter") for release in store.releases()] == [state_bytes(state) for state in states]


def test_what_does_not_shrink_stays_raw_and_adapters_are_left_alone(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(40_000)
    store = Store.create_or_open(tmp_path / "releases")
    with store.lock():
        publish_full(store, 0, data=state_bytes({"noise": torch.frombuffer(bytearray(noise), dtype=torch.uint8)}))
    (one,) = packed(store)
    assert one.after == one.before and store.blob_path(one.step.sha256).is_file()
    assert not packed_path(store.folder, one.step.sha256).exists()
    assert to_pack(make_store(tmp_path / "adapters", rounds=1)) == ()


def test_nothing_is_packed_from_a_damaged_file_or_against_a_damaged_keyframe(tmp_path: Path) -> None:
    store = make_full_store(tmp_path / "releases", rounds=2)
    raw = store.blob_path(store.find("0.1.0").manifest.files[0].sha256)
    damage(raw)
    with pytest.raises(DamagedRelease, match="does not have the bytes of its name"):
        packed(store)
    with store.lock(), pytest.raises(DamagedRelease, match="does not decode"):
        list(repack(store, to_pack(store)[:1]))
    assert raw.exists() and not list((store.folder / "packed" / "sha256").iterdir())


def damage(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_any_flipped_byte_of_a_packed_file_is_named_and_its_release_does_not_load(tmp_path: Path) -> None:
    store = make_full_store(tmp_path / "releases", rounds=2)
    packed(store)
    path = packed_path(store.folder, store.find("0.1.1").manifest.files[0].sha256)
    whole = path.read_bytes()
    head = whole.index(b"\n") + 1
    chance = random.Random(7)
    for at in [*range(0, head + 12, 3), *chance.sample(range(head + 12, len(whole)), 30), len(whole) - 1]:
        damage(path, at)
        names = [problem.path for problem in verify(store).problems]
        assert names == [f"packed/sha256/{path.name} (adapter.safetensors of 0.1.1)"], at
        path.write_bytes(whole)
    damage(path)
    with pytest.raises(DamagedRelease, match=r"adapter\.safetensors of release 0\.1\.1"):
        store.find("0.1.1").read("adapter")


def test_a_lost_keyframe_is_told_by_every_release_that_stands_on_it(tmp_path: Path) -> None:
    store = make_full_store(tmp_path / "releases", rounds=2)
    packed(store)
    keyframe = store.find("0.1.0").manifest.files[0].sha256
    packed_path(store.folder, keyframe).unlink()
    found = {problem.path.rpartition(" ")[2]: problem.what for problem in verify(store).problems}
    assert found["0.1.0)"].startswith("it cannot be read") and keyframe in found["0.1.1)"]


def test_a_kill_at_any_call_of_a_repack_loses_nothing_and_the_next_one_goes_on(tmp_path: Path) -> None:
    template, folder = make_full_store(tmp_path / "template", rounds=3), tmp_path / "killed"
    before = verify(template).checked
    instant, struck, sizes = 1, True, []
    while struck:
        shutil.copytree(template.folder, folder)
        store = Store.open(folder)
        struck = killed_at(instant, store)
        assert verify(store).ok and verify(store).checked == before, "for readers, before anybody tidies up"
        sizes.append(len(to_pack(store)))
        with disk(Fault(None)):
            packed(store)
        assert fsck(store).flaws == () and to_pack(store) == ()
        shutil.rmtree(folder)
        instant += 2
    assert set(sizes) == {0, 1, 2, 3}


def killed_at(instant: int, store: Store) -> bool:
    with disk(Fault(instant)):
        try:
            packed(store)
        except Killed:
            return True
    return False


def test_an_older_fedrelease_refuses_a_packed_store_rather_than_miss_its_files(tmp_path: Path) -> None:
    store = make_full_store(tmp_path / "releases", rounds=1)
    assert (store.folder / "store.json").read_bytes() == b'{"layout":1}'
    packed(store)
    assert (store.folder / "store.json").read_bytes() == b'{"layout":3}'


def test_a_packed_file_cannot_make_a_reader_write_more_than_its_release_says(tmp_path: Path) -> None:
    store = make_full_store(tmp_path / "releases", rounds=1)
    packed(store)
    sha256 = store.find("0.1.0").manifest.files[0].sha256
    told = packed_facts(store.folder, sha256)
    assert told.size == len(weights(0)) and replace(told, size=1).size == 1
    path = packed_path(store.folder, sha256)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(f'"size":{told.size}'.encode(), b'"size":9'))
    with pytest.raises(DamagedRelease, match="does not decode"):
        store.find("0.1.0").read("adapter")
    assert digest_bytes(weights(0)) == sha256
