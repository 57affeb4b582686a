"""What the tests of signatures share: a signed store, its signer, a thief, and helpers."""

import shutil
from pathlib import Path

import pytest
from faults import Fault, disk
from release_examples import make_store

from fedrelease.server.signed_store import SignedStore, signed_store
from fedrelease.server.signing import Signer, learn, own_signer
from fedrelease.server.store import Store
from fedrelease.server.verify import Report

__all__ = ["forget", "rewrite", "signed", "signed_of", "signed_template", "signer", "thief", "whats"]


@pytest.fixture(scope="module")
def signed_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed store and its keys, made once."""
    folder = tmp_path_factory.mktemp("template")
    with disk(Fault(None)):  # without real fsyncs
        make_store(folder / "releases", rounds=2, signer=own_signer(folder / "keys"))
    return folder


@pytest.fixture
def signer(tmp_path: Path, signed_template: Path) -> Signer:
    shutil.copytree(signed_template / "keys", tmp_path / "keys")
    return own_signer(tmp_path / "keys")


@pytest.fixture
def thief(tmp_path: Path) -> Signer:
    """Somebody who can write to the store and has keys of his own."""
    return own_signer(tmp_path / "thief")


@pytest.fixture
def signed(tmp_path: Path, signed_template: Path, signer: Signer) -> Store:
    """A store that its signer has seen as it is."""
    shutil.copytree(signed_template / "releases", tmp_path / "releases")
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
