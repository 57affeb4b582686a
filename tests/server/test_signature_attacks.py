"""Attacks on a signed store: each has words of its own. The attacker can write to the store; the keys lie elsewhere."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import signed_examples
from release_examples import TIME, make_store, prepare_round, publish_round
from signed_examples import rewrite, signed_of, whats

from fedrelease import facts
from fedrelease.errors import SignatureError
from fedrelease.files import digest_bytes
from fedrelease.manifest import Manifest
from fedrelease.server import journal
from fedrelease.server.attachments import attachments_folder, put_attachment
from fedrelease.server.channels import Move, Pointer, generations, write
from fedrelease.server.dsse import seal
from fedrelease.server.intent import Intent, announce
from fedrelease.server.release import Committed
from fedrelease.server.signed_store import put_public
from fedrelease.server.signing import Signer
from fedrelease.server.statements import channels_statement, release_statement
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

signed_template, signer, store = signed_examples.signed_template, signed_examples.signer, signed_examples.signed
thief = signed_examples.thief
"""Fixtures."""


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
