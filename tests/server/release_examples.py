"""Small true-to-life releases for tests of the store."""

import os
import time
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from examples import MANIFEST

from fedrelease.manifest import FileEntry, Manifest
from fedrelease.server.journal import LogEntry, entry_for
from fedrelease.server.release import Release
from fedrelease.server.signing import Signer
from fedrelease.server.store import Store
from fedrelease.update import state_bytes

TIME = "2031-05-01T12:00:00+00:00"
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["fedrelease.server.store"])  # so that a new process starts in no time


def round_files(round: int) -> dict[str, tuple[str, bytes]]:
    """Path -> (role, bytes) of a round."""
    adapter = {"head.weight": torch.arange(6.0).reshape(2, 3) + round}
    return {
        "adapter.safetensors": ("adapter", state_bytes(adapter)),
        "memory.safetensors": ("memory", state_bytes({"momentum": torch.full((4,), round / 3)})),
        "rng.bin": ("rng", bytes([round % 256]) * 16),
        "adapter_config.json": ("config", b'{"r":8}'),
    }


def prepare_round(
    store: Store, round: int, *, channel: str = "canary", verdict: str = "released"
) -> tuple[Manifest, LogEntry]:
    """Put the blobs of a round; version 0.1.<round>, or 0.0.0 for round 0, after the head."""
    entries = []
    for path, (role, data) in round_files(round).items():
        entries.append(FileEntry(path=path, sha256=store.put_blob(data), size=len(data), role=role))
    head = store.head()
    manifest = replace(
        MANIFEST,
        version=f"0.1.{round}" if round else "0.0.0",
        verdict=verdict,
        round=round,
        parents=(head.digest,) if head else (),
        files=tuple(entries),
    )
    return manifest, entry_for(manifest, channels=(channel,), time=TIME, seconds=1.5, bytes_up=10, bytes_down=20)


def publish_round(store: Store, round: int, *, channel: str = "canary", verdict: str = "released") -> Release:
    """A whole round; the store is locked."""
    return store.publish(*prepare_round(store, round, channel=channel, verdict=verdict))


def make_store(folder: Path, *, rounds: int, signer: Signer | None = None) -> Store:
    """A store with the base and some rounds."""
    store = Store.create_or_open(folder, signer=signer)
    with store.lock():
        for round in range(rounds + 1):
            publish_round(store, round)
    return store


def publish_until_killed(folder: Path, tell: Connection) -> None:
    """Go on after the head for ever; tell each round that was published."""
    store = Store.create_or_open(folder)
    with store.lock():
        head = store.head()
        tell.send(head.manifest.round if head else -1)
        while True:
            head = store.head()
            tell.send(publish_round(store, head.manifest.round + 1 if head else 0).manifest.round)


def hold_until_killed(folder: Path, tell: Connection) -> None:
    """Lock the store, fork a child that outlives its parent, and wait."""
    with Store.open(folder).lock():
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        tell.send(child)
        time.sleep(60)
