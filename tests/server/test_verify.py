"""Every damage is named, none raises."""

import random
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from faults import Fault, Killed, disk
from release_examples import make_store, prepare_round, publish_round

from fedrelease.errors import ReleaseNotFound
from fedrelease.manifest import FileEntry
from fedrelease.server import channels
from fedrelease.server.channels import Move
from fedrelease.server.release import Release
from fedrelease.server.store import Store
from fedrelease.server.verify import verify
from fedrelease.update import state_bytes


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "releases", rounds=2)


def flip(path: Path, chance: random.Random) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.chmod(0o644)
    path.write_bytes(data)


def files_of(release: Release) -> dict[str, str]:
    """Every file of a release below the store -> how verify calls it."""
    version, sha256 = release.version, release.digest.removeprefix("sha256:")
    blobs = {f"blobs/sha256/{file.sha256}": f"({file.path} of {version})" for file in release.manifest.files}
    names = {path: f"{path} {name}" for path, name in blobs.items()}
    manifest, committed = f"blobs/sha256/{sha256}", f"versions/{version}.json"
    return {**names, manifest: f"{manifest} (manifest of {version})", committed: committed}


def test_a_whole_store_has_no_problems_and_every_file_is_counted(store: Store) -> None:
    # 3 releases of 4 files, a manifest and a version file each, the log, the channels and the 2 generations before them
    assert (verify(store).ok, verify(store).checked) == (True, 3 * 6 + 2 + 2)
    assert verify(store, "0.1.1").checked == 6 + 2 + 2


def test_an_empty_store_is_whole(tmp_path: Path) -> None:
    assert verify(Store.create_or_open(tmp_path)).ok


def test_a_flipped_bit_in_any_file_of_a_release_is_named(store: Store, tmp_path: Path) -> None:
    chance = random.Random(5)
    for path, name in [item for release in store.releases() for item in files_of(release).items()] * 4:
        damaged = tmp_path / "damaged"
        shutil.copytree(store.folder, damaged)
        flip(damaged / path, chance)
        assert name in [problem.path for problem in verify(Store.open(damaged)).problems]
        shutil.rmtree(damaged)


def test_a_missing_file_of_a_release_is_named(store: Store, tmp_path: Path) -> None:
    for path, name in files_of(store.find("0.1.1")).items():
        damaged = tmp_path / "damaged"
        shutil.copytree(store.folder, damaged)
        (damaged / path).unlink()
        assert name in [problem.path for problem in verify(Store.open(damaged)).problems]
        shutil.rmtree(damaged)


def test_random_damage_anywhere_in_the_store_is_reported_and_never_raised(store: Store, tmp_path: Path) -> None:
    chance = random.Random(6)
    names = [str(path.relative_to(store.folder)) for path in sorted(store.folder.rglob("*")) if path.is_file()]
    for name in [name for name in names if name not in (".lock", "store.json", "log.jsonl")] * 4:
        damaged = tmp_path / "damaged"
        shutil.copytree(store.folder, damaged)
        for _ in range(3):
            flip(damaged / name, chance)
        (damaged / name).write_bytes((damaged / name).read_bytes()[: chance.randrange(9)])
        assert any(problem.path.startswith(name) for problem in verify(Store.open(damaged)).problems)
        shutil.rmtree(damaged)


def test_one_damaged_file_makes_one_problem(store: Store) -> None:
    path = store.find("0.1.2").path("adapter")
    flip(path, random.Random(1))
    problems = verify(store).problems
    assert [problem.path for problem in problems] == [f"blobs/sha256/{path.name} (adapter.safetensors of 0.1.2)"]
    assert "not those that were released" in problems[0].what


def test_one_release_is_checked_by_any_of_its_names_and_another_ones_damage_is_not_its(store: Store) -> None:
    flip(store.find("0.1.1").path("adapter"), random.Random(1))
    assert verify(store, "candidate").ok and verify(store, store.find("0.1.2").digest).ok
    assert not verify(store, "0.1.1").ok
    with pytest.raises(ReleaseNotFound):
        verify(store, "0.1.9")


def test_a_release_that_cannot_be_looked_up_in_damaged_channels_is_a_problem_and_no_error(store: Store) -> None:
    (store.folder / "channels.json").write_text("{")
    assert [problem.path for problem in verify(store, "stable").problems] == ["channels.json"]


def test_a_file_in_the_place_of_a_folder_is_a_problem_and_no_error(store: Store) -> None:
    path = store.find("0.1.1").path("adapter")
    path.unlink()
    path.mkdir()
    (store.folder / "log.jsonl").unlink()
    (store.folder / "log.jsonl").mkdir()
    paths = [problem.path for problem in verify(store).problems]
    assert "log.jsonl" in paths and f"blobs/sha256/{path.name} (adapter.safetensors of 0.1.1)" in paths


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_adapter_with_a_number_that_is_not_finite_is_named_with_the_tensor(store: Store, bad: float) -> None:
    assert "finite in head.bias" in _publish_adapter(store, state_bytes({"head.bias": torch.tensor([0.0, bad])}))


def test_an_adapter_that_is_not_safetensors_is_named(store: Store) -> None:
    assert "not readable as safetensors" in _publish_adapter(store, b"not tensors")


def _publish_adapter(store: Store, data: bytes) -> str:
    with store.lock():
        manifest, entry = prepare_round(store, 3)
        file = FileEntry(path="adapter.safetensors", sha256=store.put_blob(data), size=len(data), role="adapter")
        manifest = replace(manifest, files=(file,))
        store.publish(manifest, replace(entry, digest=manifest.digest))
    return verify(store).problems[0].what


def test_a_version_that_leads_to_another_releases_manifest_is_named(store: Store) -> None:
    path = store.folder / "versions" / "0.1.2.json"
    path.chmod(0o644)
    path.write_bytes((store.folder / "versions" / "0.1.1.json").read_bytes())
    assert "versions/0.1.2.json" in [problem.path for problem in verify(store).problems]


def test_a_release_that_the_log_tells_of_twice_or_never_is_a_problem(store: Store) -> None:
    log = store.folder / "log.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    assert [problem.what for problem in verify(store).problems] == ["release 0.1.2 has 0 lines instead of 1"]


def test_a_channel_that_points_at_a_missing_release_or_another_digest_is_a_problem(store: Store) -> None:
    pointer = store.channels().channels["candidate"]
    wrong = {"stable": replace(pointer, version="0.7.7"), "beta": replace(pointer, version="0.1.1")}
    channels.write(store.folder, store.channels().then(wrong, Move(verb="promote", actor="ada", time="t")))
    whats = [problem.what for problem in verify(store).problems]
    assert whats[0].startswith("beta points at another digest") and "stable points at 0.7.7" in whats[1]


def test_missing_channels_are_a_problem(store: Store) -> None:
    (store.folder / "channels.json").unlink()
    assert [problem.path for problem in verify(store).problems] == ["channels.json"]


def test_channels_that_are_older_than_the_log_were_put_back_and_are_a_problem(store: Store) -> None:
    old = (store.folder / "channels.json").read_bytes()
    with store.lock():
        publish_round(store, 3)
    (store.folder / "channels.json").write_bytes(old)
    (problem,) = verify(store).problems
    assert (problem.path, "generation 3, and the log tells of 4" in problem.what) == ("channels.json", True)


def test_a_generation_of_the_channels_that_was_changed_or_taken_away_is_named(store: Store) -> None:
    path = store.blob_path(str(store.channels().previous))
    flip(path, random.Random(1))
    assert [problem.path for problem in verify(store).problems] == [f"blobs/sha256/{path.name}"]
    path.unlink()
    assert [problem.path for problem in verify(store).problems] == [f"blobs/sha256/{path.name}"]


def test_a_parent_that_is_no_release_is_a_problem(store: Store) -> None:
    (store.folder / "versions" / "0.1.1.json").unlink()
    assert {"versions/0.1.1.json", "versions"} == {problem.path for problem in verify(store).problems}


def test_a_publish_under_way_is_no_problem(store: Store, tmp_path: Path) -> None:
    for instant in range(1, 80):
        folder = tmp_path / str(instant)
        shutil.copytree(store.folder, folder)
        with disk(Fault(instant)), suppress(Killed):
            publisher = Store.open(folder)
            with publisher.lock():
                publish_round(publisher, 3)
        assert verify(publisher).ok
    assert len(publisher.releases()) == 4
