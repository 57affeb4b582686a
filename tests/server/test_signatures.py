"""Signed stores, and every attack on them: each has words of its own."""

import json
import random
import shutil
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pytest
from faults import Fault, Killed, disk
from release_examples import TIME, make_store, prepare_round, publish_round

from fedrelease import facts
from fedrelease.errors import SignatureError
from fedrelease.files import digest_bytes
from fedrelease.manifest import Manifest
from fedrelease.server import journal
from fedrelease.server.attachments import attachments_folder, put_attachment
from fedrelease.server.channels import Move, Pointer, generations, write
from fedrelease.server.dsse import seal
from fedrelease.server.intent import Intent, announce
from fedrelease.server.lifecycle import By, promote
from fedrelease.server.release import Committed
from fedrelease.server.signed_store import SignedStore, put_public, signed_store
from fedrelease.server.signing import Signer, learn, own_signer
from fedrelease.server.statements import channels_statement, release_statement
from fedrelease.server.store import Store
from fedrelease.server.trust import recall
from fedrelease.server.verify import Report, verify


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed store and its keys, made once."""
    folder = tmp_path_factory.mktemp("template")
    with disk(Fault(None)):  # without real fsyncs
        make_store(folder / "releases", rounds=2, signer=own_signer(folder / "keys"))
    return folder


@pytest.fixture
def signer(tmp_path: Path, template: Path) -> Signer:
    shutil.copytree(template / "keys", tmp_path / "keys")
    return own_signer(tmp_path / "keys")


@pytest.fixture
def thief(tmp_path: Path) -> Signer:
    """Somebody who can write to the store and has keys of his own."""
    return own_signer(tmp_path / "thief")


@pytest.fixture
def store(tmp_path: Path, template: Path, signer: Signer) -> Store:
    """A store that its signer has seen as it is."""
    shutil.copytree(template / "releases", tmp_path / "releases")
    store = Store.open(tmp_path / "releases", signer=signer)
    learn(store.folder, signed_of(store), signer.home)
    return store


def signed_of(store: Store) -> SignedStore:
    signed = signed_store(store.folder)
    assert signed is not None
    return signed


def whats(report: Report) -> str:
    return "; ".join(f"{problem.path}: {problem.what}" for problem in report.problems)


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def forget(signer: Signer) -> None:
    """All that was seen of any store."""
    for record in (signer.home / "stores").glob("*.json"):
        record.unlink()


def test_a_signed_store_verifies_and_says_who_signed(store: Store, signer: Signer) -> None:
    report = verify(store, home=signer.home)
    assert report.ok, report.problems
    assert report.signers == {
        "channel": (signer.channel.public.fingerprint,),
        "release": (signer.release.public.fingerprint,),
    }


def test_signing_changes_no_digest(store: Store, tmp_path: Path) -> None:
    with disk(Fault(None)):
        plain = make_store(tmp_path / "plain", rounds=2)
    assert [release.digest for release in store.releases()] == [release.digest for release in plain.releases()]
    assert verify(plain).ok and not verify(plain).signers
    assert not (plain.folder / "keys").exists() and not (plain.folder / "attach").exists()


def test_a_statement_has_the_manifest_and_every_file_as_subjects(store: Store) -> None:
    release = store.find("0.1.2")
    (attached,) = store.attachments(release.digest, "signature")
    statement = json.loads(b64decode(json.loads(attached.read())["payload"]))
    told = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    assert told == {file.path: file.sha256 for file in release.manifest.files} | {"manifest.json": release.digest[7:]}
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "fedrelease:release/v1"
    assert statement["predicate"] == {
        "name": "four-sites",
        "version": "0.1.2",
        "verdict": "released",
        "channels": ["canary", "candidate"],
    }


def test_the_store_has_public_keys_only(store: Store) -> None:
    names = sorted(path.name.partition("-")[0] for path in (store.folder / "keys").iterdir())
    assert names == ["channel", "release", "store"]
    for path in store.folder.rglob("*"):
        assert not path.is_file() or b"PRIVATE" not in path.read_bytes()


def test_a_store_that_nobody_signed_is_signed_whole_by_the_first_writer_with_keys(
    tmp_path: Path, signer: Signer
) -> None:
    with disk(Fault(None)):  # without real fsyncs
        make_store(tmp_path / "plain", rounds=2)
    store = Store.open(tmp_path / "plain", signer=signer)
    with store.lock():
        publish_round(store, 3)
    report = verify(store, home=signer.home)
    assert report.ok and report.signers["release"] == (signer.release.public.fingerprint,)


def test_a_kill_during_a_signed_publish_leaves_every_release_signed_and_the_run_goes_on(
    store: Store, signer: Signer
) -> None:
    _kill_publishes(store, signer, every=9)


@pytest.mark.slow
def test_a_kill_at_any_call_of_a_signed_publish_leaves_every_release_signed_and_the_run_goes_on(
    store: Store, signer: Signer
) -> None:
    _kill_publishes(store, signer, every=1)


def _kill_publishes(store: Store, signer: Signer, *, every: int) -> None:
    folder, heads = store.folder.parent / "killed", []
    for instant in range(1, 200, every):
        shutil.copytree(store.folder, folder)
        with disk(Fault(instant)) as fault:
            try:
                opened = Store.open(folder, signer=signer)
                with opened.lock():
                    publish_round(opened, 3)
            except Killed:
                pass
        assert verify(opened).ok, (instant, fault.trace[-3:], whats(verify(opened)))
        heads.append(len(opened.releases()))
        forget(signer)  # the folder begins anew each time
        with disk(Fault(None)), opened.lock():  # without real fsyncs
            if heads[-1] == 3:
                publish_round(opened, 3)
        assert verify(opened).ok and len(opened.releases()) == 4
        assert len(opened.attachments(opened.find("0.1.3").digest)) == 1  # a signature of before the kill is good
        shutil.rmtree(folder)
        forget(signer)
        if fault.calls < instant:
            break
    assert heads == sorted(heads) and set(heads) == {3, 4}


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_during_the_first_signing_lets_the_next_writer_sign(tmp_path: Path, signer: Signer, every: int) -> None:
    with disk(Fault(None)):
        make_store(tmp_path / "plain", rounds=1)
    for instant in range(1, 200, every):
        folder = tmp_path / "killed"
        shutil.copytree(tmp_path / "plain", folder)
        opened = Store.open(folder, signer=signer)
        with disk(Fault(instant)) as fault:
            try:
                with opened.lock():
                    pass
            except Killed:
                pass
        with disk(Fault(None)), opened.lock():
            pass
        assert verify(opened).ok and verify(opened).signers
        shutil.rmtree(folder)
        forget(signer)
        if fault.calls < instant:
            return
    raise AssertionError("signing never ended")


def test_one_flipped_bit_in_any_file_of_a_signed_store_is_named(store: Store, signer: Signer) -> None:
    chance, damaged = random.Random(7), store.folder.parent / "damaged"
    names = [str(path.relative_to(store.folder)) for path in sorted(store.folder.rglob("*")) if path.is_file()]
    for name in [name for name in names if name not in (".lock", "store.json")]:
        shutil.copytree(store.folder, damaged)
        data = bytearray((damaged / name).read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        rewrite(damaged / name, bytes(data))
        report = verify(Store.open(damaged), home=signer.home)
        assert any(problem.path.startswith(name) for problem in report.problems), (name, report.problems)
        shutil.rmtree(damaged)


# Attacks. The attacker can write to the store and knows the format; the keys lie elsewhere.


def test_an_older_channels_file_that_is_put_back_is_found_by_the_log(store: Store, signer: Signer) -> None:
    before = (store.folder / "channels.json").read_bytes()
    with store.lock():
        publish_round(store, 3)
    rewrite(store.folder / "channels.json", before)
    assert "channels.json: it is generation 3, and the log tells of 4: an old file was put back" in whats(verify(store))
    with pytest.raises(SignatureError, match="an old file was put back"), store.lock():
        pass


def test_an_older_store_that_is_put_back_whole_is_found_by_the_machine_that_saw_a_newer_one(
    store: Store, signer: Signer
) -> None:
    shutil.copytree(store.folder, store.folder.with_name("before"))
    with store.lock():
        publish_round(store, 3)
    shutil.rmtree(store.folder)
    store.folder.with_name("before").rename(store.folder)
    assert verify(store).ok  # by itself it is what it was
    what = "it is generation 3, and this machine has seen 4: an old file was put back"
    assert whats(verify(store, home=signer.home)) == f"channels.json: {what}"


def test_two_files_of_the_same_generation_are_found_by_the_machine_that_saw_the_other(
    store: Store, signer: Signer
) -> None:
    signed = signed_of(store)
    now = store.channels()
    forked = facts.to_bytes(replace(now, channels={**now.channels, "stable": now.channels["candidate"]}))
    log = digest_bytes((store.folder / "log.jsonl").read_bytes().splitlines()[-1])
    statement = facts.to_bytes(channels_statement(forked, store=signed.id, generation=3, log=log))
    put_attachment(store.folder, f"sha256:{digest_bytes(forked)}", "signature", seal(statement, signer.channel))
    rewrite(store.folder / "channels.json", forked)
    assert "this machine has seen another file with generation 3" in whats(verify(store, home=signer.home))


def test_channels_that_were_moved_without_the_key_are_found(store: Store) -> None:
    older, now = store.find("0.1.1"), store.channels()
    pointer = Pointer(version=older.version, digest=older.digest)
    with Store.open(store.folder).lock():
        write(store.folder, now.then({"stable": pointer}, Move(verb="promote", actor="thief", time=TIME)))
    assert "channels.json: it is not signed: somebody without the key moved the channels" in whats(verify(store))


def test_channels_of_another_store_of_the_same_keys_are_found(store: Store, signer: Signer, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", rounds=2, signer=signer)
    with other.lock():  # the same releases, another channel
        publish_round(other, 3, channel="beta")
    data = (other.folder / "channels.json").read_bytes()
    rewrite(store.folder / "channels.json", data)
    for room in ("attach", "blobs"):
        shutil.copytree(other.folder / room, store.folder / room, dirs_exist_ok=True)
    assert "it was signed for another store" in whats(verify(store))


def test_a_swapped_file_is_named(store: Store) -> None:
    files = {file.path: store.blob_path(file.sha256) for file in store.find("0.1.2").manifest.files}
    rewrite(files["adapter.safetensors"], files["memory.safetensors"].read_bytes())
    assert "(adapter.safetensors of 0.1.2): its bytes are not those that were released" in whats(verify(store))


def _forge(store: Store, thief: Signer | None) -> None:
    """Another manifest in the place of 0.1.2's, with the log and all digests made to fit; signed by the thief if by anybody."""
    release = store.find("0.1.2")
    forged = replace(release.manifest, files=release.manifest.files[:1])
    _put(store, forged)
    if thief is not None:
        statement = facts.to_bytes(release_statement(forged, ("canary", "candidate")))
        put_attachment(store.folder, forged.digest, "signature", seal(statement, thief.release))


def _put(store: Store, manifest: Manifest) -> None:
    digest = manifest.digest[7:]
    store.blob_path(digest).write_bytes(manifest.to_bytes())
    rewrite(store.folder / "versions" / f"{manifest.version}.json", facts.to_bytes(Committed(digest=manifest.digest)))
    entries = store.history()
    (store.folder / "log.jsonl").unlink()
    for entry in entries:
        here = replace(entry, digest=manifest.digest) if entry.version == manifest.version else entry
        journal.append(store.folder / "log.jsonl", here)
    pointers = {name: replace(pointer, digest=manifest.digest) for name, pointer in store.channels().channels.items()}
    rewrite(store.folder / "channels.json", facts.to_bytes(replace(store.channels(), channels=pointers)))


def test_a_manifest_that_is_signed_by_another_key_is_named_with_that_key(store: Store, thief: Signer) -> None:
    _forge(store, thief)
    told = whats(verify(store))
    assert "(signature of 0.1.2): it is signed by another key, " + thief.release.public.fingerprint[:16] in told
    assert "channels.json: it is not signed" in told


def test_a_manifest_that_is_signed_by_nobody_is_named(store: Store) -> None:
    _forge(store, None)
    assert "(signature of 0.1.2): it is not signed, as every release of this store is" in whats(verify(store))


def test_a_signature_of_the_other_role_counts_for_nothing(store: Store, signer: Signer) -> None:
    _forge(store, replace(signer, release=signer.channel))
    assert "which this machine has not agreed to for this" in whats(verify(store))


def test_a_signature_of_another_release_counts_for_nothing(store: Store) -> None:
    mine, other = (attachments_folder(store.folder, store.find(ref).digest) for ref in ("0.1.2", "0.1.1"))
    shutil.rmtree(mine)
    shutil.copytree(other, mine)
    assert "its signature is of something else than release 0.1.2" in whats(verify(store))


def test_a_removed_signature_is_named(store: Store) -> None:
    release = store.find("0.1.1")
    store.attachments(release.digest)[0].path.unlink()
    path = f"attach/{release.digest[7:]} (signature of 0.1.1)"
    assert [problem.path for problem in verify(store).problems] == [path]


def test_all_signatures_and_keys_removed_is_found_by_the_machine_that_saw_them(store: Store, signer: Signer) -> None:
    shutil.rmtree(store.folder / "keys")
    assert "keys: there are signatures, and nothing says by whose keys" in whats(verify(store))
    shutil.rmtree(store.folder / "attach")
    assert verify(store).ok and not verify(store).signers  # by itself it is a store that nobody signs
    assert "this machine has seen this store signed" in whats(verify(store, home=signer.home))
    with pytest.raises(SignatureError, match="no longer says so"), store.lock():
        pass


@pytest.mark.parametrize("line", [0, 2])
def test_an_edited_log_is_found_even_when_its_chain_is_made_anew(store: Store, line: int) -> None:
    entries = list(store.history())
    entries[line] = replace(entries[line], seconds=9.0)
    (store.folder / "log.jsonl").unlink()
    for entry in entries:
        journal.append(store.folder / "log.jsonl", entry)
    what = "log.jsonl: it lacks the line that channels.json was signed with: a line was changed or taken out"
    assert whats(verify(store)) == what
    with pytest.raises(SignatureError, match="a line was changed or taken out"), store.lock():
        pass


def test_a_foreign_public_key_in_the_store_is_named_and_believed_by_nobody(
    store: Store, thief: Signer, signer: Signer
) -> None:
    put_public(store.folder, "release", thief.release.public)
    for home in (None, signer.home):
        assert "this machine has not agreed to that key" in whats(verify(store, home=home))
    _forge(store, thief)
    assert "it is signed by another key" in whats(verify(store))


def test_another_store_in_the_place_of_a_known_one_is_found(store: Store, signer: Signer, thief: Signer) -> None:
    shutil.rmtree(store.folder)
    make_store(store.folder, rounds=2, signer=thief)
    assert verify(store).ok
    assert "this machine knows another store in this folder" in whats(verify(store, home=signer.home))


def test_a_note_of_a_move_that_nobody_signed_is_not_believed(store: Store) -> None:
    now, entry = store.channels(), store.history()[-1]
    moved = now.then({"stable": now.channels["candidate"]}, Move(verb="promote", actor="thief", time=TIME))
    line = replace(entry, event="promote", channels=("stable",), generation=moved.generation)
    for meant in (Intent(entry=line, moved=moved), Intent(entry=line, moved=None)):
        announce(store.folder, meant)
        with pytest.raises(SignatureError, match="asks for what nobody signed"), store.lock():
            pass
    assert "stable" not in store.channels().channels and len(store.history()) == 3


def test_a_note_that_nobody_signed_excuses_no_old_channels(store: Store) -> None:
    before, now = (store.folder / "channels.json").read_bytes(), store.channels()
    with store.lock():
        publish_round(store, 3)
    rewrite(store.folder / "channels.json", before)
    moved = now.then({"stable": now.channels["candidate"]}, Move(verb="promote", actor="thief", time=TIME))
    announce(store.folder, Intent(entry=store.history()[-1], moved=moved))
    assert "an old file was put back" in whats(verify(store))


def test_a_note_of_an_old_publish_moves_nothing_back(store: Store) -> None:
    old = list(generations(store.folder))[1]
    announce(store.folder, Intent(entry=replace(store.history()[1], previous="0" * 64), moved=old))
    with store.lock():
        pass
    assert {pointer.version for pointer in store.channels().channels.values()} == {"0.1.2"}
    assert len(store.history()) == 3


def test_a_promotion_is_signed_and_a_kill_during_it_can_be_finished(store: Store, signer: Signer) -> None:
    folder, seen = store.folder.parent / "killed", set()
    for instant in range(1, 200, 7):
        shutil.copytree(store.folder, folder)
        opened = Store.open(folder, signer=signer)
        with disk(Fault(instant)) as fault:
            try:
                with opened.lock():
                    promote(opened, "0.1.1", to="stable", by=By(actor="ada", reason="good", time=TIME))
            except Killed:
                pass
        assert verify(opened).ok, (instant, fault.trace[-3:], whats(verify(opened)))
        forget(signer)
        with disk(Fault(None)), opened.lock():
            seen.add("stable" in opened.channels().channels)
        assert verify(opened).ok, (instant, whats(verify(opened)))
        shutil.rmtree(folder)
        forget(signer)
        if fault.calls < instant:
            break
    assert seen == {False, True}


def test_a_release_that_was_slipped_in_is_neither_logged_nor_pointed_at(store: Store, signer: Signer) -> None:
    with store.lock():
        manifest, _ = prepare_round(store, 3)
    store.blob_path(manifest.digest[7:]).write_bytes(manifest.to_bytes())
    (store.folder / "versions" / "0.1.3.json").write_bytes(facts.to_bytes(Committed(digest=manifest.digest)))
    with pytest.raises(SignatureError, match=r"release 0\.1\.3: it is not signed"), store.lock():
        pass
    assert len(store.history()) == 3


def test_a_writer_without_keys_or_with_others_is_refused_with_the_way_out(store: Store, thief: Signer) -> None:
    plain = Store.open(store.folder)
    with plain.lock(), pytest.raises(SignatureError, match="this writer has no key"):
        publish_round(plain, 3)
    mine = thief.channel.public.fingerprint[:16]
    with (
        pytest.raises(SignatureError, match=f"fedrelease keys trust {mine}"),
        Store.open(store.folder, signer=thief).lock(),
    ):
        pass
    assert verify(store).ok


def test_a_lost_log_is_rebuilt_and_the_channels_are_signed_with_it(store: Store, signer: Signer) -> None:
    (store.folder / "log.jsonl").unlink()
    assert not verify(store).ok
    with store.lock():
        pass
    assert verify(store, home=signer.home).ok


def test_the_first_look_agrees_to_the_stores_first_keys_and_later_looks_to_no_others(
    store: Store, tmp_path: Path, thief: Signer
) -> None:
    home, signed = tmp_path / "reader", signed_of(store)
    assert recall(home, signed.id, store.folder) is None
    learn(store.folder, signed, home)
    known = recall(home, signed.id, store.folder)
    assert known is not None
    assert {trust.key.fingerprint for trust in known.keys} == {signed.release, signed.channel}
    for path in (store.folder / "keys").glob("*.pem"):
        path.unlink()  # the reader has them still
    told = whats(verify(store, home=home))
    assert "it is missing" in told and "signed by another key" not in told


def test_a_copy_of_a_store_elsewhere_goes_its_own_way(store: Store, signer: Signer) -> None:
    copy = shutil.copytree(store.folder, store.folder.with_name("copy"))
    with store.lock():
        publish_round(store, 3)
    copied = Store.open(copy, signer=signer)
    assert verify(copied, home=signer.home).ok
    with copied.lock():
        publish_round(copied, 3, channel="stable")
    assert verify(copied, home=signer.home).ok and verify(store, home=signer.home).ok
