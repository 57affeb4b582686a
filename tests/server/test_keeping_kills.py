"""Real kills over everything that writes to a store: one head, and nothing that fsck finds."""

import random
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from full_examples import publish_full, weights
from release_examples import PROCESSES

from fedrelease.errors import RetiredRelease
from fedrelease.retention import Retention
from fedrelease.server.attachments import put_attachment
from fedrelease.server.fsck import fsck
from fedrelease.server.lifecycle import By, promote, rollback
from fedrelease.server.repack import repack, to_pack
from fedrelease.server.retiring import retire
from fedrelease.server.store import Store
from fedrelease.server.sweep import sweep

NAMES = ("publish", "promote", "rollback", "gc", "repack", "retire")
MOST = 40
"""Releases; beyond them no more are published, so that a check stays quick."""


def work_until_killed(folder: Path, seed: int, tell: Connection) -> None:
    """Do one thing after the other for ever; tell what begins, and the head."""
    tempfile.tempdir = str(folder.parent / "decoded")
    store, chance = Store.create_or_open(folder), random.Random(seed)
    while True:
        name = chance.choice(NAMES)
        tell.send((name, len(store.releases())))
        with store.lock():
            act(store, name, chance)


def act(store: Store, name: str, chance: random.Random) -> None:
    count = len(store.releases())
    by = By(reason=str(chance.random()))
    if name == "publish" and count < MOST:
        store.put_blob(chance.randbytes(50))  # of a round that was refused
        put_attachment(store.folder, f"sha256:{chance.randbytes(32).hex()}", "gate-report", chance.randbytes(9))
        publish_full(store, count, data=weights(count, rows=4))
    elif name == "promote" and count:
        with suppress(RetiredRelease):
            promote(store, f"0.1.{chance.randrange(count)}", to=chance.choice(("beta", "canary")), by=by)
    elif name == "rollback" and count > 1:
        with suppress(RetiredRelease):
            promote(store, "0.1.0", to="stable", by=by)
            promote(store, "0.1.1", to="stable", by=by)
            rollback(store, "stable", by=by)
    elif name == "gc":
        sweep(store, grace_s=0.0, now=time.time() + 1)
    elif name == "retire":
        retire(store, Retention(releases=max(2, count - chance.randrange(6))), by=by)
    elif name == "repack":
        list(repack(store, to_pack(store)))


def kill_workers(folder: Path, *, times: int) -> set[str]:
    """The verbs during which kills struck."""
    chance, struck = random.Random(times), set[str]()
    (folder.parent / "decoded").mkdir()
    for seed in range(times):
        here, there = PROCESSES.Pipe(duplex=False)
        worker = PROCESSES.Process(target=work_until_killed, args=(folder, seed, there))
        worker.start()
        there.close()
        last = here.recv()
        time.sleep(chance.random() * 0.12)
        worker.kill()
        worker.join()
        worker.close()
        last = [last, *rest(here)][-1]
        struck.add(last[0])
        check(Store.open(folder), at_least=last[1])
    return struck


def check(store: Store, *, at_least: int) -> None:
    """After the next writer came and went: no flaw, one head, no release lost that was there."""
    with store.lock():
        pass
    found = fsck(store)
    count = len(store.releases())
    assert found.flaws == () and not found.under_way
    assert count >= at_least and found.head == (f"0.1.{count - 1}" if count else None)
    assert [entry.version for entry in store.history() if entry.event == "released"] == [
        f"0.1.{round}" for round in range(count)
    ]


def rest(pipe: Connection) -> list[tuple[str, int]]:
    told = []
    try:
        while True:
            told.append(pipe.recv())
    except (EOFError, OSError):
        return told


def test_eight_real_kills_over_all_that_writes_leave_one_head_and_nothing_for_fsck(tmp_path: Path) -> None:
    kill_workers(tmp_path / "releases", times=8)
    assert Store.open(tmp_path / "releases").head() is not None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_five_hundred_real_kills_over_all_that_writes_leave_one_head_and_nothing_for_fsck(tmp_path: Path) -> None:
    assert kill_workers(tmp_path / "releases", times=500) == set(NAMES)
    assert len(Store.open(tmp_path / "releases").releases()) > 10
