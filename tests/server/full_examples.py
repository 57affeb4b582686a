"""A store of releases that hold a whole small model, trained a little further each round."""

from dataclasses import replace
from pathlib import Path

import torch
from examples import MANIFEST

from fedrelease.manifest import FileEntry
from fedrelease.server.journal import entry_for
from fedrelease.server.release import Release
from fedrelease.server.store import Store
from fedrelease.update import state_bytes

TIME = "2031-05-01T12:00:00+00:00"
FULL = replace(MANIFEST.adapter, kind="full")


def weights(round: int, *, rows: int = 40) -> bytes:
    """Drawn once; each round moves every number by about a thousandth of itself."""
    source = torch.Generator().manual_seed(1)
    start = torch.randn(rows, 64, generator=source) / 8
    steps = [start.abs().mean() / 1000 * torch.randn(rows, 64, generator=source) for _ in range(round)]
    bias = torch.full((3,), float(round))
    return state_bytes({"head.bias": bias, "layer.weight": torch.stack([start, *steps]).sum(0)})


def publish_full(store: Store, round: int, *, data: bytes | None = None) -> Release:
    """0.1.<round>, with one large file; the store is locked."""
    data = weights(round) if data is None else data
    sha256, head = store.put_blob(data), store.head()
    manifest = replace(
        MANIFEST,
        version=f"0.1.{round}",
        round=round,
        adapter=FULL,
        parents=(head.digest,) if head else (),
        files=(FileEntry(path="adapter.safetensors", sha256=sha256, size=len(data), role="adapter"),),
    )
    return store.publish(manifest, entry_for(manifest, channels=("stable",), time=TIME))


def make_full_store(folder: Path, *, rounds: int) -> Store:
    """``rounds`` releases."""
    store = Store.create_or_open(folder)
    with store.lock():
        for round in range(rounds):
            publish_full(store, round)
    return store
