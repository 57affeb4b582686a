"""Keys: made once, secret, and of one kind."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from fedrelease.errors import SignatureError
from fedrelease.server.keys import PublicKey, keys_folder, make_key, own_key, read_private, read_public


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mine" / "keys"


def test_a_key_is_made_on_first_use_and_is_the_same_one_ever_after(folder: Path) -> None:
    first = own_key(folder, "release")
    assert own_key(folder, "release").public == first.public
    assert own_key(folder, "channel").public != first.public
    assert sorted(path.name for path in folder.iterdir()) == ["channel.pem", "release.pem"]


def test_a_private_key_is_0600_in_a_folder_of_0700(folder: Path) -> None:
    own_key(folder, "release")
    assert stat.S_IMODE((folder / "release.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_private_key_that_others_may_read_or_change_is_refused_and_the_way_out_is_named(
    folder: Path, mode: int
) -> None:
    own_key(folder, "release")
    (folder / "release.pem").chmod(mode)
    with pytest.raises(SignatureError, match=rf"has mode 0{mode:o}.*chmod 600 .*release\.pem"):
        own_key(folder, "release")


def test_a_folder_in_which_others_may_put_keys_is_refused(folder: Path) -> None:
    own_key(folder, "release")
    folder.chmod(0o770)
    with pytest.raises(SignatureError, match="chmod 700"):
        own_key(folder, "release")


def test_nothing_that_is_printed_of_a_key_or_of_an_error_holds_the_secret(folder: Path) -> None:
    key = own_key(folder, "release")
    secret = key.pem().decode().splitlines()[1]
    (folder / "release.pem").write_text(f"-----BEGIN PRIVATE KEY-----\n{secret}\n")
    with pytest.raises(SignatureError) as caught:
        own_key(folder, "release")
    for text in (repr(key), str(key), str(caught.value), repr(caught.value.__cause__)):
        assert secret[:16] not in text
    assert key.public.fingerprint in repr(key)


def _other_keys() -> dict[str, bytes]:
    def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes | None = None) -> bytes:
        sealed = BestAvailableEncryption(password) if password else NoEncryption()
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed)

    p256 = ec.generate_private_key(ec.SECP256R1())
    return {
        "P-384": pem(ec.generate_private_key(ec.SECP384R1())),
        "RSA": pem(rsa.generate_private_key(65537, 2048)),
        "with a password": pem(p256, b"secret"),
        "nothing": b"",
    }


@pytest.mark.parametrize(("kind", "data"), _other_keys().items(), ids=_other_keys())
def test_a_key_of_another_kind_is_refused(folder: Path, kind: str, data: bytes) -> None:
    own_key(folder, "release")
    (folder / "release.pem").write_bytes(data)
    with pytest.raises(SignatureError, match="P-256"):
        read_private(folder / "release.pem")


def test_an_unknown_role_makes_no_file(folder: Path) -> None:
    with pytest.raises(SignatureError, match="channel, release"):
        own_key(folder, "../release")
    assert not folder.exists()


def test_the_fingerprint_is_what_sha256sum_says_of_the_public_file(tmp_path: Path) -> None:
    public = make_key().public
    (tmp_path / "public.pem").write_text(public.pem)
    told = subprocess.run(["sha256sum", tmp_path / "public.pem"], capture_output=True, text=True, check=True).stdout
    assert told.split()[0] == public.fingerprint


def test_a_signature_is_verified_by_its_own_key_over_its_own_bytes_only() -> None:
    key = make_key()
    signature = key.sign(b"bytes")
    assert signature != key.sign(b"bytes") and key.public.verifies(key.sign(b"bytes"), b"bytes")
    assert key.public.verifies(signature, b"bytes")
    assert not key.public.verifies(signature, b"byte")
    assert not make_key().public.verifies(signature, b"bytes")
    assert not key.public.verifies(b"not DER", b"bytes")


def test_a_public_key_has_one_form_only(tmp_path: Path) -> None:
    pem = make_key().public.pem
    with pytest.raises(SignatureError, match="usual form"):
        PublicKey(pem=f"\n{pem}")
    (tmp_path / "public.pem").write_bytes(b"\xff" + pem.encode())
    with pytest.raises(SignatureError, match=r"public\.pem"):
        read_public(tmp_path / "public.pem")


def test_the_folder_is_the_one_that_is_named_else_one_of_the_home_that_is_no_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEDRELEASE_KEYS", str(tmp_path))
    assert keys_folder() == tmp_path
    monkeypatch.setenv("FEDRELEASE_KEYS", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert keys_folder() == tmp_path / "home" / ".config" / "fedrelease" / "keys"


def test_two_that_make_a_key_at_once_agree_on_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def late(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        assert own_key(folder, "release")  # somebody else was quicker
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    found = own_key(folder, "release").public
    assert found == own_key(folder, "release").public
    assert [path.name for path in folder.iterdir()] == ["release.pem"]
