"""What a store costs: disk for eleven adapter releases and ten whole models, time to publish, and to tidy and check a thousand.

Example::

    python -m fedrelease.simulations.bench.store                       # a store of 1,000 releases; half a minute or so
    python -m fedrelease.simulations.bench.store --releases 100 --model 1000000
    python -m fedrelease.simulations.bench.store --packed releases     # your own store: bytes before and after repack

The first four lines are of numbers that are drawn, in the sizes and steps that are asked for: they show what the store does, not
how a model trains. ``--packed`` measures releases that real rounds made, in a copy.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch

from fedrelease.errors import FedreleaseError, StoreError
from fedrelease.manifest import (
    AdapterFacts,
    BaseFacts,
    FederationFacts,
    FileEntry,
    Manifest,
    MetricsFacts,
    TaskFacts,
)
from fedrelease.server.fsck import fsck
from fedrelease.server.journal import entry_for, utc_now
from fedrelease.server.keys import make_key
from fedrelease.server.repack import repack, to_pack
from fedrelease.server.signing import Signer
from fedrelease.server.store import Store
from fedrelease.server.sweep import sweepable
from fedrelease.server.verify import verify
from fedrelease.simulations.bench.command import tell_failure, wide_console
from fedrelease.simulations.bench.scaled import at_least_one
from fedrelease.update import state_bytes

__all__ = ["Range", "disk_bytes", "main", "measure_adapters", "measure_copy", "measure_packing", "measure_work"]

ADAPTERS = 11
WHOLE = 10
SHARE = 0.004
"""Bytes of an adapter per byte of its base: LoRA of rank 8 on the attention of MiniLM."""
ENDS = 20
"""Publishes at the beginning and at the end of a store, between which one sees whether it grows with the store."""
STEP = 1e-3
"""How far a round moves a number, as a share of the numbers' spread; fine-tuning moves them less."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Median, least and most of some seconds."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        """In milliseconds."""
        return f"{self.median * 1000:.1f} ms ({self.least * 1000:.1f} to {self.most * 1000:.1f})"


def measure_adapters(folder: Path, *, parameters: int) -> float:
    """Bytes on disk of a base and eleven adapter releases, manifests and log too, as a multiple of the base."""
    base = len(state_bytes({"base": torch.zeros(parameters)}))
    store = _filled(folder, ADAPTERS, lambda round: _drawn(int(parameters * SHARE), round), kind="lora")
    return (base + disk_bytes(store.folder)) / base


def measure_packing(folder: Path, *, parameters: int) -> tuple[float, float]:
    """Bytes of ten whole models before and after a repack, as multiples of one."""
    source = torch.Generator().manual_seed(1)
    weights = torch.randn(parameters, generator=source) / 8

    def moved(round: int) -> bytes:
        if round:
            weights.add_(torch.randn(parameters, generator=source), alpha=STEP / 8)
        return state_bytes({"weights": weights})

    store = _filled(folder, WHOLE, moved, kind="full")
    return _packed(store, len(state_bytes({"weights": weights})))


def measure_copy(store: Store, folder: Path) -> tuple[int, float, float]:
    """Of a store that real rounds made: whole models in it, and their bytes before and after, as multiples of one.

    Raises:
        StoreError: it has none that is not packed yet.
    """
    steps = to_pack(store)
    if not steps:
        raise StoreError("no raw release of a whole model", value=str(store.folder), rule='adapter.kind = "full"')
    copy = Store.open(Path(shutil.copytree(store.folder, folder / "copy")))
    return (len(steps), *_packed(copy, steps[0].size))


def measure_work(folder: Path, *, releases: int) -> Mapping[str, Range | float]:
    """Seconds of a signed publish whose new files are there already, at both ends of the store, and of gc, fsck and verify.

    How long a disk takes to flush is its own affair and that of whoever else uses it: both ends are told without it too.
    """
    keys = Signer(home=folder.parent / "keys", release=make_key(), channel=make_key())
    store = Store.create_or_open(folder, signer=keys)
    seconds, computed = list[float](), list[float]()
    with store.lock(), _flushing() as flushed:
        for round in range(releases):
            manifest = _manifest(store, round, _drawn(100, round), kind="lora")
            flushed.clear()
            began = time.perf_counter()
            store.publish(manifest, entry_for(manifest, channels=("stable",), time=utc_now()))
            seconds.append(time.perf_counter() - began)
            computed.append(seconds[-1] - sum(flushed))
    return {
        "publish": _range(seconds),
        f"publish, the first {ENDS}": _range(seconds[:ENDS]),
        f"publish, the last {ENDS}": _range(seconds[-ENDS:]),
        f"publish without fsync, the first {ENDS}": _range(computed[:ENDS]),
        f"publish without fsync, the last {ENDS}": _range(computed[-ENDS:]),
        "gc": _timed(lambda: sweepable(store, grace_s=0.0, now=time.time())),
        "fsck": _timed(lambda: fsck(store)),
        "verify": _timed(lambda: verify(store)),
    }


@contextmanager
def _flushing() -> Iterator[list[float]]:
    """Collect the seconds of every fsync while the block runs."""
    seconds, real = list[float](), os.fsync

    def timed(file: int) -> None:
        began = time.perf_counter()
        real(file)
        seconds.append(time.perf_counter() - began)

    with patch.object(os, "fsync", timed):
        yield seconds


def _range(seconds: Sequence[float]) -> Range:
    return Range(median=median(seconds), least=min(seconds), most=max(seconds))


def disk_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _packed(store: Store, one: int) -> tuple[float, float]:
    with store.lock():
        done = list(repack(store, to_pack(store)))
    return sum(packed.before for packed in done) / one, sum(packed.after for packed in done) / one


def _timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _drawn(numbers: int, round: int) -> bytes:
    return state_bytes({"lora": torch.randn(numbers, generator=torch.Generator().manual_seed(round))})


def _filled(folder: Path, releases: int, data: Callable[[int], bytes], *, kind: str) -> Store:
    store = Store.create_or_open(folder)
    with store.lock():
        for round in range(releases):
            manifest = _manifest(store, round, data(round), kind=kind)
            store.publish(manifest, entry_for(manifest, channels=("stable",), time=utc_now()))
    return store


def _manifest(store: Store, round: int, data: bytes, *, kind: str) -> Manifest:
    """Of a release with one file, which is in the store when this returns."""
    head, sha256 = store.head(), store.put_blob(data)
    return Manifest(
        name="bench",
        version=f"0.1.{round}",
        verdict="released",
        phase="main",
        round=round,
        parents=(head.digest,) if head else (),
        files=(FileEntry(path="adapter.safetensors", sha256=sha256, size=len(data), role="adapter"),),
        base=BaseFacts(ref="bench", files={}),
        adapter=AdapterFacts(kind=kind, rank=8, alpha=16.0, targets="attention", layers="all"),
        task=TaskFacts(name="text-classification", labels=("no", "yes"), max_length=128, tokenizer=sha256),
        federation=FederationFacts(
            name="bench", strategy="fedavg", strategy_params={}, cohort=(), accepted=(), refused=()
        ),
        privacy=None,
        metrics=MetricsFacts(),
        environment={},
    )


def _all(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    if given.packed is not None:
        models, before, after = measure_copy(Store.open(given.packed), folder)
        return {f"{models} whole models, times one": f"{before:.2f} -> {after:.2f}"}
    adapters = measure_adapters(folder / "adapters", parameters=given.model)
    before, after = measure_packing(folder / "whole", parameters=given.model)
    work = measure_work(folder / "many", releases=given.releases)
    told: dict[str, object] = {
        f"base and {ADAPTERS} adapter releases, times the base": f"{adapters:.3f}",
        f"{WHOLE} whole models that move by {STEP:g} a round, times one": f"{before:.2f} -> {after:.2f}",
    }
    many = f"{given.releases} releases"
    return told | {
        f"{name}, {many}": str(cost) if isinstance(cost, Range) else f"{cost:.2f} s" for name, cost in work.items()
    }


def main(typed: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m fedrelease.simulations.bench.store", description=__doc__)
    parser.add_argument("--releases", type=at_least_one, default=1000, help="of the store that is tidied and checked")
    parser.add_argument(
        "--model", type=at_least_one, default=5_000_000, help="numbers of the base and of a whole model"
    )
    parser.add_argument("--packed", type=Path, metavar="DIR", help="a store of whole models: pack a copy of it")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(typed)
    try:
        with TemporaryDirectory(prefix="fedrelease-bench-") as folder:
            told = _all(given, Path(folder))
    except FedreleaseError as error:
        return tell_failure(error, as_json=given.json)
    if given.json:
        print(json.dumps(told, indent=2))
    else:
        for name, value in told.items():
            wide_console().print(f"{name}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
