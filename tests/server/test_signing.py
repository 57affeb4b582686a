"""Signed stores, and what a kill leaves of a signature."""

import json
import random
import shutil
from base64 import b64decode
from pathlib import Path

import pytest
import signed_examples
from faults import Fault, Killed, disk
from release_examples import TIME, make_store, publish_round
from signed_examples import forget, rewrite, signed_of, whats

from fedrelease.server.lifecycle import By, promote
from fedrelease.server.signing import Signer, learn
from fedrelease.server.store import Store
from fedrelease.server.trust import recall
from fedrelease.server.verify import verify

signed_template, signer, store = signed_examples.signed_template, signed_examples.signer, signed_examples.signed
"""Fixtures."""


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


def test_a_lost_log_is_rebuilt_and_the_channels_are_signed_with_it(store: Store, signer: Signer) -> None:
    (store.folder / "log.jsonl").unlink()
    assert not verify(store).ok
    with store.lock():
        pass
    assert verify(store, home=signer.home).ok


def test_a_copy_of_a_store_elsewhere_goes_its_own_way(store: Store, signer: Signer) -> None:
    copy = shutil.copytree(store.folder, store.folder.with_name("copy"))
    with store.lock():
        publish_round(store, 3)
    copied = Store.open(copy, signer=signer)
    assert verify(copied, home=signer.home).ok
    with copied.lock():
        publish_round(copied, 3, channel="stable")
    assert verify(copied, home=signer.home).ok and verify(store, home=signer.home).ok


def test_the_first_look_agrees_to_the_stores_first_keys_and_later_looks_to_no_others(
    store: Store, tmp_path: Path
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
