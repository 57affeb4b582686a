"""One rule over the updates of a spool, in a process of its own: seconds, and how much memory it took.

Example (the benchmark types this)::

    python -m fedrelease.simulations.bench.aggregate_one task.json       # prints one JSON document

``plain`` is no rule: the same files, read and added up in float32 by torch, with nothing kept and nothing weighted.
"""

import ctypes
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from torch import Tensor

from fedrelease.experiment import StrategyChoice
from fedrelease.server.spool import Spool
from fedrelease.strategies import Strategy, make_strategy
from fedrelease.update import State, Update

__all__ = ["METRICS", "PLAIN", "main", "parent_of"]

PLAIN = "plain"
EVERY_S = 0.005
FEW = 20
STATUS = Path("/proc/self/status")
M_MMAP_THRESHOLD = -3
METRICS = {"steps": 1.0, "loss": 1.0}


def parent_of(parameters: int) -> dict[str, Tensor]:
    """Zeros in four tensors that have so many numbers together, or a few more."""
    rows = max(1, -(-parameters // 4000))
    return {f"layer.{place}.weight": torch.zeros(rows, 1000) for place in range(4)}


class _OwnMemory:
    """The most memory that this process holds for itself while the block runs: pages of mapped files are not counted."""

    def __enter__(self) -> "_OwnMemory":
        self._process, self._done = psutil.Process(), threading.Event()
        self.before = self.most = self._now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _now(self) -> int:
        """Where the system tells it by itself; what all pages and the shared ones differ by is wrong while a file is unmapped."""
        if STATUS.exists():
            return 1024 * int(STATUS.read_text(encoding="ascii").split("RssAnon:")[1].split()[0])
        return int(self._process.memory_info().rss)

    def _watch(self) -> None:
        while not self._done.wait(EVERY_S):
            self.most = max(self.most, self._now())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _plain(parent: State, updates: Sequence[Update]) -> None:
    for name, tensor in parent.items():
        total = tensor.clone()
        for update in updates:
            total.add_(update.tensors[name])


def main() -> None:
    """Time the rule on one thread, then look at its memory."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    parent, updates = parent_of(task["parameters"]), Spool(Path(task["spool"]), parent=task["parent"]).updates()
    rule = None if task["rule"] == PLAIN else make_strategy(StrategyChoice(name=task["rule"]))
    _aggregate(rule, *_few())
    begun = time.perf_counter()
    _aggregate(rule, parent, updates)
    seconds = time.perf_counter() - begun
    _give_back_at_once()
    with _OwnMemory() as memory:
        _aggregate(rule, parent, updates)
    print(json.dumps({"seconds": seconds, "grown_bytes": memory.most - memory.before}))


def _give_back_at_once() -> None:
    """Let glibc return tensors when they are freed: what it keeps for later would hide what is in use. Slow, so not timed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 17)


def _aggregate(rule: Strategy | None, parent: State, updates: Sequence[Update]) -> None:
    if rule is None:
        _plain(parent, updates)
    else:
        rule.aggregate(parent, updates, {})


def _few() -> tuple[State, list[Update]]:
    """Something small for a first time: what torch loads for an operation is no cost of the rule."""
    parent = {name: torch.zeros(3, 1000) for name in parent_of(1)}
    one = Update(site="a", tensors=parent, examples=1, metrics=METRICS, receipt=None, digest="", size_bytes=0)
    return parent, [replace(one, site=f"site-{number:02d}") for number in range(FEW)]


if __name__ == "__main__":
    main()
