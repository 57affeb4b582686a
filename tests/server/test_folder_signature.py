"""A signed folder, and what the public tool says of it."""

import json
import shutil
import subprocess
import sys
from base64 import b64decode
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedrelease.errors import SignatureError
from fedrelease.server.folder_signature import sign_folder
from fedrelease.server.keys import PrivateKey, make_key

FILES = {"adapter.safetensors": b"weights", "README.md": b"card", "base/config.json": b"{}", "a-b": b"", "a/c": b"c"}
TOOL = pytest.mark.skipif(
    find_spec("model_signing") is None or find_spec("OpenSSL") is None,
    reason="the tool is not installed: pip install model_signing pyOpenSSL",
)


@pytest.fixture
def key() -> PrivateKey:
    return make_key()


@pytest.fixture
def folder(tmp_path: Path, key: PrivateKey) -> Path:
    folder = tmp_path / "export"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    sign_folder(folder, key)
    return folder


def test_the_statement_has_every_file_and_the_digest_of_their_digests(folder: Path) -> None:
    envelope = json.loads((folder / "model.sig").read_bytes())["dsseEnvelope"]
    statement = json.loads(b64decode(envelope["payload"]))
    told = {resource["name"]: resource["digest"] for resource in statement["predicate"]["resources"]}
    assert told == {name: sha256(data).hexdigest() for name, data in FILES.items()}
    together = sha256(b"".join(sha256(FILES[name]).digest() for name in sorted(FILES))).hexdigest()
    assert statement["subject"] == [{"name": "export", "digest": {"sha256": together}}]


def test_signing_again_does_not_sign_the_signature(folder: Path, key: PrivateKey) -> None:
    before = json.loads((folder / "model.sig").read_bytes())["dsseEnvelope"]["payload"]
    sign_folder(folder, key)
    assert json.loads((folder / "model.sig").read_bytes())["dsseEnvelope"]["payload"] == before


def test_a_folder_without_files_or_with_a_link_is_refused(tmp_path: Path, key: PrivateKey) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        with pytest.raises(SignatureError, match="nothing to sign"):
            sign_folder(tmp_path / name, key)
    (tmp_path / "empty" / "link").symlink_to("/etc/hostname")
    with pytest.raises(SignatureError, match="link"):
        sign_folder(tmp_path / "empty", key)


def tool(folder: Path, key: PrivateKey) -> subprocess.CompletedProcess[str]:
    """What ``model_signing verify key`` says."""
    public = folder.parent / "public.pem"
    public.write_text(key.public.pem)
    command = ["verify", "key", str(folder), "--signature", str(folder / "model.sig"), "--public_key", str(public)]
    return subprocess.run([sys.executable, "-m", "model_signing", *command], capture_output=True, text=True)


@TOOL
@pytest.mark.slow
def test_the_public_tool_verifies_a_signed_folder_wherever_it_lies(folder: Path, key: PrivateKey) -> None:
    moved = shutil.move(folder, folder.with_name("moved"))
    done = tool(Path(moved), key)
    assert (done.returncode, done.stdout.strip()) == (0, "Verification succeeded"), done.stderr


@TOOL
@pytest.mark.slow
def test_the_public_tool_refuses_a_changed_an_added_and_a_missing_file_and_another_key(
    folder: Path, key: PrivateKey
) -> None:
    assert "Key mismatch" in tool(folder, make_key()).stderr
    (folder / "README.md").write_bytes(b"cart")
    assert "Hash mismatch for 'README.md'" in tool(folder, key).stderr
    (folder / "README.md").unlink()
    assert "Missing files in model 'export': README.md" in tool(folder, key).stderr
    (folder / "README.md").write_bytes(b"card")
    (folder / "more").write_bytes(b"")
    assert "Extra files found in model 'export': more" in tool(folder, key).stderr
