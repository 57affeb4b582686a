"""The store: opening, blobs, publishing and reading. Crashes are in test_crash.py."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from release_examples import PROCESSES, hold_until_killed, make_store, prepare_round, publish_round, round_files

from fedrelease.errors import DamagedRelease, ReleaseNotFound, StoreBusy, StoreError
from fedrelease.files import digest_bytes
from fedrelease.server.journal import LogEntry
from fedrelease.server.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "releases", rounds=2)


def test_a_missing_store_is_refused_and_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"fedrelease simulate.*--store"):
        Store.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_file_in_the_place_of_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        Store.open(tmp_path / "file")
    with pytest.raises(StoreError):
        Store.create_or_open(tmp_path / "file")


def test_a_folder_with_other_files_is_never_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match=r"thesis\.txt"):
        Store.create_or_open(tmp_path)


def test_a_newer_layout_is_refused_naming_both_numbers_and_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"layout":5,"more":true}')
    with pytest.raises(StoreError, match=r"layout 5 .* layout 4.*update fedrelease"):
        Store.open(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"layout":"1"}', '{"layout":0}', '{"layout":true}', "[" * 99999]
)
def test_a_damaged_store_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(StoreError, match=r"store\.json is damaged"):
        Store.create_or_open(tmp_path)


def test_an_empty_store_has_no_head_no_releases_and_no_channels(tmp_path: Path) -> None:
    store = Store.create_or_open(tmp_path)
    assert (store.head(), store.releases(), store.history(), store.channels().channels) == (None, (), (), {})


def test_writing_without_the_lock_is_refused(tmp_path: Path) -> None:
    store = Store.create_or_open(tmp_path)
    with pytest.raises(StoreError, match="not locked"):
        store.put_blob(b"x")


def test_a_second_writer_is_told_who_the_first_is(store: Store) -> None:
    with store.lock(), pytest.raises(StoreBusy, match=f"process {os.getpid()}"), Store.open(store.folder).lock():
        pass


def test_the_lock_is_free_again_after_an_error_in_the_block(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.lock():
        _ = 1 / 0
    with store.lock():
        pass


def test_a_killed_writer_frees_the_lock_even_while_its_forked_child_lives(store: Store) -> None:
    here, there = PROCESSES.Pipe()
    writer = PROCESSES.Process(target=hold_until_killed, args=(store.folder, there))
    writer.start()
    child: int = here.recv()
    try:
        with pytest.raises(StoreBusy, match=f"process {writer.pid}"), store.lock():
            pass
        writer.kill()
        writer.join()
        with store.lock():
            pass
    finally:
        os.kill(child, 9)
        writer.close()


def test_a_blob_is_read_only_and_kept_once(store: Store, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"weights")
    with store.lock():
        sha256 = store.put_blob(b"weights")
        before = store.blob_path(sha256).stat()
        assert store.put_blob(tmp_path / "source") == sha256 == digest_bytes(b"weights")
    assert store.blob_path(sha256).stat() == before
    assert stat.S_IMODE(before.st_mode) == 0o444
    assert list((store.folder / "tmp").iterdir()) == []


def test_a_damaged_blob_is_mended_when_its_bytes_come_again(store: Store) -> None:
    with store.lock():
        path = store.blob_path(store.put_blob(b"weights"))
        path.chmod(0o644)
        path.write_bytes(b"wei")
        store.put_blob(b"weights")
    assert path.read_bytes() == b"weights"


def test_a_name_that_is_no_sha256_never_leads_out_of_the_store(store: Store) -> None:
    with pytest.raises(StoreError):
        store.blob_path("../../etc/passwd")


def test_releases_are_ordered_by_number_and_the_head_is_the_highest(store: Store) -> None:
    with store.lock():
        for round in range(3, 12):
            publish_round(store, round)
    assert [release.version for release in store.releases()] == ["0.0.0", *(f"0.1.{round}" for round in range(1, 12))]
    head = store.head()
    assert head is not None and head.version == "0.1.11"


def test_a_release_gives_back_its_adapter_memory_and_random_state(store: Store) -> None:
    release = store.find("0.1.2")
    assert torch.equal(release.state()["head.weight"], torch.arange(6.0).reshape(2, 3) + 2)
    assert torch.equal(release.memory()["momentum"], torch.full((4,), 2 / 3))
    assert release.read("rng") == release.read("rng.bin") == round_files(2)["rng.bin"][1]


def test_a_release_without_strategy_memory_has_an_empty_one(store: Store) -> None:
    with store.lock():
        manifest, entry = prepare_round(store, 3)
        manifest = replace(manifest, files=manifest.files[:1])
        release = store.publish(manifest, replace(entry, digest=manifest.digest))
    assert dict(release.memory()) == {}
    with pytest.raises(ReleaseNotFound, match=r"no files called rng.*adapter\.safetensors"):
        release.path("rng")


def test_reading_a_damaged_adapter_names_the_file_and_the_version(store: Store) -> None:
    path = store.find("0.1.1").path("adapter")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(DamagedRelease, match=r"adapter\.safetensors of release 0\.1\.1"):
        store.find("0.1.1").state()
    path.unlink()
    with pytest.raises(DamagedRelease, match=r"adapter\.safetensors of release 0\.1\.1"):
        store.find("0.1.1").state()


def test_a_release_is_found_by_version_channel_and_digest(store: Store) -> None:
    release = store.find("0.1.2")
    sha256 = release.digest.removeprefix("sha256:")
    for ref in ("candidate", "canary", release.digest, sha256, sha256[:8], f"sha256:{sha256[:12]}"):
        assert store.find(ref) == release


@pytest.mark.parametrize("ref", ["0.1.3", "stable", "0.1", "", "deadbeef", "../0.1.1", "\0"])
def test_an_unknown_release_is_refused_with_the_known_ones(store: Store, ref: str) -> None:
    with pytest.raises(ReleaseNotFound, match=r"0\.0\.0, 0\.1\.1, 0\.1\.2\. Channels: canary, candidate"):
        store.find(ref)


def test_seven_digits_of_a_digest_are_too_few(store: Store) -> None:
    with pytest.raises(ReleaseNotFound):
        store.find(store.find("0.1.1").digest[7:14])


def test_a_release_moves_the_candidate_and_its_phases_channel(store: Store) -> None:
    with store.lock():
        release = publish_round(store, 3, channel="stable")
    pointers = {name: pointer.version for name, pointer in store.channels().channels.items()}
    assert pointers == {"candidate": "0.1.3", "stable": "0.1.3", "canary": "0.1.2"}
    assert store.channels().channels["stable"].digest == release.digest
    assert store.history()[-1].channels == ("candidate", "stable")


def test_a_held_release_keeps_its_number_and_gets_no_channel(store: Store) -> None:
    with store.lock():
        publish_round(store, 3, channel="stable", verdict="held")
    assert "stable" not in store.channels().channels
    assert store.channels().channels["candidate"].version == "0.1.2"
    assert (store.history()[-1].event, store.history()[-1].channels) == ("held", ())


def test_publishing_the_same_manifest_again_changes_nothing(store: Store) -> None:
    with store.lock():
        manifest, entry = prepare_round(store, 3)
        first = store.publish(manifest, entry)
        publish_round(store, 4)
        before = _all_bytes(store.folder)
        assert store.publish(manifest, entry) == first
    assert _all_bytes(store.folder) == before


def test_a_version_never_gets_another_digest(store: Store) -> None:
    with store.lock():
        manifest, entry = prepare_round(store, 2)
        with pytest.raises(StoreError, match="another digest"):
            store.publish(manifest, entry)


def test_a_version_below_the_head_is_refused(store: Store) -> None:
    with store.lock():
        manifest, entry = prepare_round(store, 3)
        manifest = replace(manifest, version="0.0.9")
        with pytest.raises(StoreError, match="only rise"):
            store.publish(manifest, replace(entry, version="0.0.9", digest=manifest.digest))


def test_a_release_whose_file_or_parent_is_not_in_the_store_is_refused(store: Store) -> None:
    with store.lock():
        manifest, entry = prepare_round(store, 3)
        for wrong in (
            replace(manifest, files=(replace(manifest.files[0], sha256="0" * 64),)),
            replace(manifest, files=(replace(manifest.files[0], size=1),)),
            replace(manifest, parents=(f"sha256:{'0' * 64}",)),
        ):
            with pytest.raises(StoreError, match="not in the store"):
                store.publish(wrong, replace(entry, digest=wrong.digest))
    assert len(store.releases()) == 3


def test_a_log_entry_of_another_release_or_with_an_unknown_channel_is_refused(store: Store) -> None:
    with store.lock():
        manifest, entry = prepare_round(store, 3)
        with pytest.raises(StoreError, match="another release"):
            store.publish(manifest, replace(entry, round=9))
        with pytest.raises(StoreError, match="unknown channel"):
            store.publish(manifest, replace(entry, channels=("gold",)))
    assert len(store.releases()) == len(store.history()) == 3


def test_a_failed_round_leaves_its_log_line_and_no_other_trace(store: Store) -> None:
    head = store.head()
    failed = LogEntry(
        version="0.1.3", digest=None, event="round-failed", phase="pilot", round=3, time="t", reason="quorum"
    )
    with store.lock():
        store.record_failure(failed)
        with pytest.raises(StoreError):
            store.record_failure(store.history()[0])
    assert store.head() == head
    assert [entry.event for entry in store.history()] == ["released"] * 3 + ["round-failed"]


def test_a_lost_log_is_rebuilt_without_the_numbers_that_only_it_knew(store: Store) -> None:
    (store.folder / "log.jsonl").unlink()
    with store.lock():
        pass
    assert [(entry.version, entry.seconds) for entry in store.history()] == [
        ("0.0.0", None),
        ("0.1.1", None),
        ("0.1.2", None),
    ]
    assert store.history()[-1].channels == ("canary", "candidate")


def _all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
