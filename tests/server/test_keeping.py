"""What nothing refers to is swept, what something refers to stays; what can be mended without loss is."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from faults import Fault, Killed, disk
from full_examples import make_full_store
from release_examples import TIME, make_store, prepare_round, publish_round

from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.experiment import Experiment
from fedrelease.experiment_file import to_toml
from fedrelease.files import digest_bytes
from fedrelease.manifest import FileEntry
from fedrelease.server import intent
from fedrelease.server.attachments import put_attachment
from fedrelease.server.fsck import Flaw, Found, fsck, mend
from fedrelease.server.intent import Intent
from fedrelease.server.lifecycle import By, promote
from fedrelease.server.references import references
from fedrelease.server.repack import repack, to_pack
from fedrelease.server.store import Store
from fedrelease.server.sweep import Sweep, grace_seconds, sweep, sweepable
from fedrelease.server.verify import verify

HOUR = 3600.0
NOW = 2_000_000_000.0
ADA = By(actor="ada", reason="because", time=TIME)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three releases and four generations, all a day older than NOW."""
    store = make_store(tmp_path / "releases", rounds=2)
    with store.lock():
        promote(store, "0.1.1", to="stable", by=ADA)
    age(store)
    return store


def age(store: Store, *, hours: float = 25) -> None:
    for path in (store.folder, *store.folder.rglob("*")):
        os.utime(path, (NOW - hours * HOUR, NOW - hours * HOUR))


def found(store: Store, *, grace: float = 24 * HOUR) -> Sweep:
    return sweepable(store, grace_s=grace, now=NOW)


def paths(swept: Sweep) -> list[str]:
    return [leftover.path for leftover in swept.leftovers]


def files(store: Store) -> dict[str, bytes]:
    whole = (path for path in store.folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(store.folder)): path.read_bytes() for path in whole}


def swept(store: Store) -> Sweep:
    with store.lock():
        return sweep(store, grace_s=24 * HOUR, now=NOW)


def test_nothing_of_a_tidy_store_is_swept(store: Store) -> None:
    before = files(store)
    assert swept(store) == Sweep(leftovers=(), young=0)
    assert files(store) == before


def test_a_blob_of_no_release_goes_when_it_is_older_than_the_grace_and_a_dry_run_removes_nothing(store: Store) -> None:
    with store.lock():
        old, young = store.put_blob(b"of a refused round"), store.put_blob(b"of a round in progress")
    os.utime(store.blob_path(old), (NOW - 25 * HOUR, NOW - 25 * HOUR))
    os.utime(store.blob_path(young), (NOW - 23 * HOUR, NOW - 23 * HOUR))
    assert (paths(found(store)), found(store).size, found(store).young) == ([f"blobs/sha256/{old}"], 18, 1)
    assert store.blob_path(old).exists()
    assert swept(store).size == 18
    assert not store.blob_path(old).exists() and store.blob_path(young).exists() and verify(store).ok


def test_attachments_of_releases_and_generations_stay_with_all_that_they_name_and_others_go(store: Store) -> None:
    with store.lock():
        variant, signed, lost = (store.put_blob(word) for word in (b"int8 weights", b"about the variant", b"nobody's"))
        channels = digest_bytes((store.folder / "channels.json").read_bytes())
        put_attachment(store.folder, store.find("0.1.1").digest, "variant", f'{{"file":"{variant}"}}'.encode())
        put_attachment(store.folder, f"sha256:{variant}", "signature", f"over {signed}".encode())
        put_attachment(store.folder, f"sha256:{channels}", "signature", b"of the generation")
        stray = put_attachment(store.folder, f"sha256:{'ab' * 32}", "gate-report", b"of a round that was killed")
    age(store)
    assert paths(swept(store)) == [stray.name, f"blobs/sha256/{lost}"]
    assert not (store.folder / "attach" / ("ab" * 32)).exists()
    assert {variant, signed} <= references(store.folder) and len(list((store.folder / "attach").iterdir())) == 3


def test_the_keyframe_of_a_packed_release_stays(tmp_path: Path) -> None:
    store = make_full_store(tmp_path / "releases", rounds=2)
    with store.lock():
        list(repack(store, to_pack(store)))
    age(store)
    assert paths(swept(store)) == [] and verify(store).ok


def with_experiment(store: Store, round: int, *, keep: bool) -> str:
    """A release whose experiment says whether its spool is kept, and that spool."""
    with store.lock():
        manifest, entry = prepare_round(store, round)
        made = Experiment()
        text = to_toml(replace(made, federation=replace(made.federation, keep_updates=keep))).encode()
        file = FileEntry(path="experiment.toml", sha256=store.put_blob(text), size=len(text), role="doc")
        manifest = replace(manifest, files=(*manifest.files, file))
        store.publish(manifest, replace(entry, digest=manifest.digest))
    (store.folder / "spool" / manifest.version).mkdir(parents=True)
    (store.folder / "spool" / manifest.version / "a.json").write_bytes(b"update")
    return manifest.version


def test_spools_go_when_their_round_is_released_unless_its_experiment_keeps_them_or_nobody_knows(store: Store) -> None:
    kept, done = with_experiment(store, 3, keep=True), with_experiment(store, 4, keep=False)
    for version in ("0.1.2", "0.1.9"):  # one without an experiment, and one that is in progress
        (store.folder / "spool" / version).mkdir()
    age(store)
    assert paths(swept(store)) == [f"spool/{done}"]
    assert sorted(path.name for path in (store.folder / "spool").iterdir()) == ["0.1.2", kept, "0.1.9"]


def test_nothing_is_swept_from_a_store_in_which_something_cannot_be_read(store: Store) -> None:
    with store.lock():
        store.put_blob(b"nobody's")
    age(store)
    manifest = store.blob_path(store.find("0.1.1").digest.removeprefix("sha256:"))
    manifest.chmod(0o644)
    manifest.write_bytes(b"{")
    with pytest.raises(DamagedRelease, match=r"manifest of release 0\.1\.1 is damaged"):
        found(store)


def test_a_publish_under_way_keeps_what_it_is_about_to_commit(store: Store) -> None:
    with store.lock():
        manifest, entry = prepare_round(store, 3)
        store.put_blob(manifest.to_bytes())
        put_attachment(store.folder, manifest.digest, "gate-report", b"passed")
        intent.announce(store.folder, Intent(entry=entry, moved=None))
        age(store)
        names = paths(found(store))
    assert not any(manifest.digest.removeprefix("sha256:") in name for name in names)


def test_a_kill_at_any_call_of_a_sweep_leaves_a_whole_store_and_the_next_sweep_the_rest(store: Store) -> None:
    with store.lock():
        for word in (b"one", b"two"):
            put_attachment(store.folder, f"sha256:{store.put_blob(word)}", "gate-report", word)
    age(store)
    everything, folder, instant, struck = paths(found(store)), store.folder.parent / "killed", 1, True
    assert len(everything) == 4
    while struck:
        shutil.copytree(store.folder, folder)
        killed = Store.open(folder)
        struck = False
        with disk(Fault(instant)):
            try:
                swept(killed)
            except Killed:
                struck = True
        assert verify(killed).ok and set(paths(found(killed))) <= set(everything)
        swept(killed)
        assert paths(found(killed)) == [] and fsck(killed).flaws == ()
        shutil.rmtree(folder)
        instant += 1


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("24h", 86400), ("7d", 604800), ("0h", 0)])
def test_a_length_of_time_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert grace_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "1.5h", "-1h", "1w"])
def test_anything_else_is_no_length_of_time(text: str) -> None:
    with pytest.raises(StoreError, match="no length of time"):
        grace_seconds(text)


def flaws(store: Store) -> dict[str, str | None]:
    return {flaw.path: flaw.mend for flaw in fsck(store).flaws}


def mended(store: Store) -> Found:
    mend(store)
    return fsck(store)


def test_a_whole_store_has_no_flaws_one_head_and_loose_blobs_are_counted_and_no_flaw(store: Store) -> None:
    with store.lock():
        store.put_blob(b"left over")
    told = fsck(store)
    assert (told.flaws, told.head, told.loose, told.loose_bytes, told.under_way) == ((), "0.1.2", 1, 9, False)
    assert told.checked == verify(store).checked + 1


def test_whatever_verify_finds_is_a_flaw_that_only_a_copy_mends(store: Store) -> None:
    path = store.find("0.1.1").path("adapter")
    path.chmod(0o644)
    path.write_bytes(b"other")
    path.chmod(0o444)
    name = f"blobs/sha256/{path.name} (adapter.safetensors of 0.1.1)"
    assert fsck(store).flaws == (Flaw(path=name, what="its bytes are not those that were released"),)
    assert mended(store).flaws == fsck(store).flaws


def test_a_damaged_blob_that_no_release_has_is_named(store: Store) -> None:
    with store.lock():
        path = store.blob_path(store.put_blob(b"left over"))
    path.chmod(0o644)
    path.write_bytes(b"left ovEr")
    path.chmod(0o444)
    assert flaws(store) == {f"blobs/sha256/{path.name}": None}


def test_a_file_that_can_be_written_is_named_and_made_read_only_again(store: Store) -> None:
    with store.lock():
        attached = put_attachment(store.folder, store.find("0.1.1").digest, "card", b"# card")
    names = ["attach", "blobs", "versions"]
    every = [store.find("0.1.1").path("adapter"), store.folder / "versions" / "0.1.1.json", attached.path]
    before = files(store)
    for path in every:
        path.chmod(0o644)
    assert sorted(path.partition("/")[0] for path in flaws(store)) == names
    assert set(flaws(store).values()) == {"make it read-only"}
    assert mended(store).ok and files(store) == before
    assert {path.stat().st_mode & 0o777 for path in every} == {0o444}


def test_an_interrupted_publish_and_its_temporary_files_are_named_and_finished(store: Store) -> None:
    with store.lock():
        prepared = prepare_round(store, 3)
        with disk(Fault(None)) as counted:
            store.publish(*prepared)
    shutil.rmtree(store.folder)
    store = make_store(store.folder, rounds=2)
    link = next(at for at, line in enumerate(counted.trace, start=1) if line.startswith("link"))
    with store.lock():
        prepared = prepare_round(store, 3)
        with disk(Fault(link + 2)), pytest.raises(Killed):
            store.publish(*prepared)
    (store.folder / ".channels.json.abc.tmp").write_bytes(b"half")
    (store.folder / "tmp" / "abc").write_bytes(b"half")
    named = flaws(store)
    assert named["publishing.json"] == "finish it"
    assert named[".channels.json.abc.tmp"] == named["tmp/abc"] == "remove it"
    after = mended(store)
    assert (after.flaws, after.head) == ((), "0.1.3")
    assert store.find("canary").version == "0.1.3"


def test_a_lost_line_of_the_log_is_written_again(store: Store) -> None:
    shutil.rmtree(store.folder)
    store = make_store(store.folder, rounds=2)
    log = store.folder / "log.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    assert flaws(store) == {"log.jsonl": "write the line"}
    assert mended(store).ok and [entry.version for entry in store.history()] == ["0.0.0", "0.1.1", "0.1.2"]


def test_a_head_that_is_not_the_last_of_the_log_is_named(store: Store) -> None:
    log = store.folder / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + lines[2] + lines[1])
    assert any(flaw.path == "versions" and "log told of 0.1.1 last" in flaw.what for flaw in fsck(store).flaws)


def test_while_somebody_writes_the_traces_of_writing_are_no_flaw(store: Store) -> None:
    with store.lock():
        (store.folder / "tmp" / "half").write_bytes(b"half")
        told = fsck(store)
    assert told.under_way and told.ok
    assert flaws(store) == {"tmp/half": "remove it"}


def test_a_release_published_after_a_sweep_and_a_check_is_as_good_as_any(store: Store) -> None:
    swept(store)
    with store.lock():
        publish_round(store, 3)
    assert fsck(store).flaws == ()
