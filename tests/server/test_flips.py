"""Every single-byte flip in what a release, its attachments and the channels' past are made of is named."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from full_examples import make_full_store
from release_examples import TIME, make_store

from fedrelease.server.attachments import put_attachment
from fedrelease.server.channels import generations
from fedrelease.server.lifecycle import By, promote
from fedrelease.server.repack import repack, to_pack
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

EACH = 12
"""Offsets that are drawn in every file, beside its first and its last."""
NOT_BY_DIGEST = (".lock", "channels.json", "log.jsonl", "store.json")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three releases, five generations, attachments of a release and of a generation."""
    store = make_store(tmp_path / "releases", rounds=2)
    with store.lock():
        promote(store, "0.1.1", to="stable", by=By(actor="ada", reason="good", time=TIME))
        promote(store, "0.1.2", to="stable", by=By(actor="ada", reason="better", time=TIME))
        put_attachment(store.folder, store.find("0.1.1").digest, "gate-report", b'{"verdict":"pass"}')
        for one in list(generations(store.folder))[:2]:
            previous = one.previous or ""
            put_attachment(store.folder, f"sha256:{previous}", "note", f"over {previous}".encode())
    return store


def flips(path: Path) -> Iterator[int]:
    """Change one bit of one byte, tell where, and put it back."""
    whole, chance = path.read_bytes(), random.Random(path.name)
    path.chmod(0o644)
    for at in {0, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(EACH))}:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        yield at
    path.write_bytes(whole)


def files(store: Store) -> list[str]:
    every = (path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*") if path.is_file())
    return sorted(name for name in every if name not in NOT_BY_DIGEST)


def named(store: Store) -> set[str]:
    return {problem.path.partition(" ")[0] for problem in verify(store).problems}


def test_a_flip_in_any_file_of_releases_attachments_and_older_generations_is_named(store: Store) -> None:
    rooms = {name.partition("/")[0] for name in files(store)}
    assert rooms == {"attach", "blobs", "versions"} and len(files(store)) == 3 * 6 - 2 + 4 + 3  # 2 configs are shared
    for name in files(store):
        for at in flips(store.folder / name):
            assert name in named(store), f"byte {at}"
    assert verify(store).ok


def test_a_flip_in_any_line_of_the_log_but_the_last_is_named(store: Store) -> None:
    log = store.folder / "log.jsonl"
    last = log.read_bytes().rstrip(b"\n").rfind(b"\n") + 1
    for at in flips(log):
        assert at >= last or "log.jsonl" in named(store), f"byte {at}"


def test_a_flip_in_any_packed_file_is_named(tmp_path: Path) -> None:
    store = make_full_store(tmp_path / "releases", rounds=2)
    with store.lock():
        list(repack(store, to_pack(store)))
    for name in files(store):
        for at in flips(store.folder / name):
            assert name in named(store), f"byte {at}"
