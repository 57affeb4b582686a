"""``keys``, and what ``verify`` says of signatures."""

import json
from pathlib import Path

import pytest
from example_store import publish

from fedrelease.cli import run
from fedrelease.server.agreement import agree
from fedrelease.server.keys import own_key
from fedrelease.server.signing import Signer, own_signer
from fedrelease.server.store import Store

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDRELEASE_KEYS", str(tmp_path / "mine"))
    return tmp_path / "mine"


def signed_store(folder: Path, signer: Signer) -> Store:
    store = Store.create_or_open(folder, signer=signer)
    with store.lock():
        for round in range(2):
            publish(store, round, told=True)
    return store


def told(capsys: Capture, *arguments: str, code: int = 0) -> str:
    assert run(arguments) == code
    return capsys.readouterr().out


def test_verify_says_who_signed_and_that_a_first_look_believes(tmp_path: Path, mine: Path, capsys: Capture) -> None:
    partner = own_signer(tmp_path / "partner")
    store = signed_store(tmp_path / "releases", partner)
    where = ["--store", str(store.folder)]
    lines = told(capsys, "verify", *where).splitlines()
    assert lines[1:] == [
        f"signed by {partner.channel.public.fingerprint} (channel)",
        f"signed by {partner.release.public.fingerprint} (release)",
        "first look at this store: its keys are believed from now on; compare them with what its owner says",
    ]
    document = json.loads(told(capsys, "verify", "--json", *where))
    assert document["first"] is False
    assert {"role": "release", "fingerprint": partner.release.public.fingerprint} in document["signers"]


def test_verify_says_when_nobody_signed(tmp_path: Path, mine: Path, capsys: Capture) -> None:
    Store.create_or_open(tmp_path / "plain")
    assert "not signed: who can write" in told(capsys, "verify", "--store", str(tmp_path / "plain"))


def test_a_new_key_signs_once_it_was_trusted_and_old_releases_still_verify(
    tmp_path: Path, mine: Path, capsys: Capture
) -> None:
    folder = tmp_path / "releases"
    signed_store(folder, own_signer())
    told(capsys, "verify", "--store", str(folder))
    (mine / "release.pem").rename(tmp_path / "old-release.pem")
    new = own_key(mine, "release").public.fingerprint
    shown = told(capsys, "keys", "--store", str(folder))
    assert [line.split()[:3] for line in shown.splitlines() if line.startswith(new)] == [[new, "release", "yours"]]
    told(capsys, "keys", "trust", new[:16], "--store", str(folder))
    store = Store.open(folder, signer=own_signer())
    with store.lock():
        publish(store, 2, told=True)
    document = json.loads(told(capsys, "verify", "--json", "--store", str(folder)))
    assert document["ok"] and len(document["signers"]) == 3  # a channel key, an old and a new release key


def test_a_partners_new_key_is_refused_until_it_is_trusted(tmp_path: Path, mine: Path, capsys: Capture) -> None:
    partner, folder = tmp_path / "partner", tmp_path / "releases"
    signed_store(folder, own_signer(partner))
    told(capsys, "verify", "--store", str(folder))
    (partner / "release.pem").unlink()
    new = own_key(partner, "release").public.fingerprint
    agree(folder, partner, new)
    refused = told(capsys, "verify", "--store", str(folder), code=1)
    assert f"fedrelease keys trust {new[:16]}" in refused
    told(capsys, "keys", "trust", new[:8], "--store", str(folder))
    assert told(capsys, "verify", "--store", str(folder)).startswith("ok")


@pytest.mark.parametrize("digits", ["", "1234567", "0" * 16])
def test_a_key_that_is_not_there_is_refused_with_those_that_are(
    tmp_path: Path, mine: Path, capsys: Capture, digits: str
) -> None:
    store = signed_store(tmp_path / "releases", own_signer())
    document = json.loads(told(capsys, "keys", "trust", digits, "--json", "--store", str(store.folder), code=1))
    assert own_signer().release.public.fingerprint[:16] in document["error"]["hint"]


def test_another_word_than_trust_is_misuse(mine: Path, capsys: Capture) -> None:
    assert run(["keys", "believe", "12345678"]) == 2
    assert run(["keys", "trust"]) == 2
    assert "fedrelease keys trust FINGERPRINT" in capsys.readouterr().err


def test_keys_shows_no_secret(mine: Path, tmp_path: Path, capsys: Capture) -> None:
    store = signed_store(tmp_path / "releases", own_signer())
    shown = told(capsys, "keys", "--store", str(store.folder)) + told(
        capsys, "keys", "--json", "--store", str(store.folder)
    )
    secrets = [line for pem in mine.glob("*.pem") for line in pem.read_text().splitlines()[1:-1]]
    assert secrets and not any(secret in shown for secret in secrets)
