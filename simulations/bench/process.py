"""One measured run in a process of its own.

Example::

    found = run_module("ours", Path("bench-out/task.json"), threads=None)
    found.told["state"], found.begun, found.peak_bytes, found.cpu_s
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrelease.errors import EngineError
from fedrelease.simulations.bench.usage import Usage
from fedrelease.simulations.engine import KERNEL_CACHES, ONE_THREAD

__all__ = ["Found", "run_module"]

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
LINES_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a module printed, when it was started, and what it and its descendants used, start and end included."""

    told: Mapping[str, Any]
    begun: float
    peak_bytes: int
    cpu_s: float


def run_module(name: str, task: Path, *, threads: int | None) -> Found:
    """Run a module of this package in a process of its own.

    Args:
        threads: of numerical libraries; ``None`` leaves them what the machine gives.

    Raises:
        EngineError: it failed; the error carries its last words.
    """
    limits = {} if threads is None else dict.fromkeys(ONE_THREAD, str(threads))
    log = task.with_suffix(f".{name}.log")
    begun = time.monotonic()
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", f"fedrelease.simulations.bench.{name}", str(task)],
            stdout=subprocess.PIPE,
            stderr=errors,
            env={
                **os.environ,
                **QUIET,
                **KERNEL_CACHES,
                **limits,
            },  # for both sides: what a kernel costs is no overhead
            text=True,
        )
        try:
            with Usage(process.pid) as usage:
                told, _ = process.communicate()
        finally:
            process.kill()
    if process.returncode != 0 or not told.strip():
        raise _failed(name, process.returncode, log)
    last = json.loads(told.splitlines()[-1])
    return Found(told=last, begun=begun, peak_bytes=usage.peak_bytes, cpu_s=usage.cpu_s)


def _failed(name: str, status: int, log: Path) -> EngineError:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    words = "\n".join(lines[-LINES_SHOWN:])
    return EngineError(f"the run {name} ended with status {status}", value=words or "no message")
