"""The processes of one machine's part of a federation: started, watched, started again, stopped.

Example::

    with Processes(log=log) as processes:
        processes.start(Program(name="gateway", command=(...), output=folder / "log" / "gateway.out"))
        while not done():
            processes.tend()             # starts again what has ended
            time.sleep(0.5)
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import final

from fedrelease.deployment.logs import LARGEST, Log, turn_over

__all__ = ["QUIET", "Processes", "Program", "module"]

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""What every process of a deployment has in its environment."""
STOP_S = 10.0
LONGEST_PAUSE_S = 60.0
STEADY_S = 120.0
"""A process that ran for so long may start again without a pause."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A process that shall run.

    Attributes:
        output: gets what it prints.
        pause_s: before it is started again for the first time; doubled each time that it ends soon, up to a minute.
    """

    name: str
    command: Sequence[str]
    output: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    pause_s: float = 1.0


@dataclass(kw_only=True)
class _Running:
    """A program and its process; ``due`` is when it may start again, on the monotonic clock."""

    program: Program
    process: subprocess.Popen[bytes]
    since: float
    pause_s: float
    due: float | None = None
    starts: int = 1


def module(name: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs a module of ours; a file in the current folder cannot pass for a library."""
    return (sys.executable, "-P", "-m", name, *arguments)


@final
class Processes:
    """All processes of one supervisor. They end when it ends, also if it is killed."""

    def __init__(self, *, log: Log) -> None:
        """``log`` gets a line for each start and end."""
        self._log = log
        self._running: dict[str, _Running] = {}

    def start(self, program: Program) -> None:
        """Start a program; it is started again whenever it ends, until :meth:`stop`."""
        now = time.monotonic()
        self._running[program.name] = _Running(
            program=program, process=self._spawn(program), since=now, pause_s=program.pause_s
        )

    def stop(self, name: str) -> None:
        """End one program and forget it."""
        self._end([self._running.pop(name)])

    def alive(self, name: str) -> bool:
        """Whether the program runs now."""
        found = self._running.get(name)
        return found is not None and found.process.poll() is None

    def started(self, name: str) -> int:
        """How often the program was started."""
        return self._running[name].starts

    def ids(self) -> dict[str, int]:
        """Process ids by name, of those that run."""
        return {name: one.process.pid for name, one in self._running.items() if one.process.poll() is None}

    def again(self, name: str) -> None:
        """End a program that does not do what it should; it is started again."""
        one = self._running[name]
        self._end([one])
        one.due = None

    def tend(self) -> None:
        """Start again what has ended and whose pause is over."""
        now = time.monotonic()
        for one in self._running.values():
            if (status := one.process.poll()) is None:
                continue
            if one.due is None:
                steady = now - one.since > STEADY_S
                one.pause_s = one.program.pause_s if steady else min(LONGEST_PAUSE_S, one.pause_s * 2)
                one.due = now + (one.program.pause_s if steady or one.starts == 1 else one.pause_s)
                self._log("process-ended", name=one.program.name, status=status, again_in_s=round(one.due - now, 1))
            if now >= one.due:
                one.process, one.since, one.due = self._spawn(one.program), now, None
                one.starts += 1

    def close(self) -> None:
        """End all, the last started first."""
        for one in reversed(self._running.values()):
            self._end([one])
        self._running.clear()

    def _spawn(self, program: Program) -> subprocess.Popen[bytes]:
        program.output.parent.mkdir(parents=True, exist_ok=True)
        if program.output.exists() and program.output.stat().st_size > LARGEST:
            turn_over(program.output)
        with program.output.open("ab") as output:
            process = subprocess.Popen(
                [*module("fedrelease.deployment.tied", str(os.getpid())), *program.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **QUIET, **program.environment},
                start_new_session=True,  # Ctrl-C is for the supervisor, which then ends them in order
            )
        self._log("process-started", name=program.name, pid=process.pid)
        return process

    def _end(self, them: Sequence[_Running]) -> None:
        for one in them:
            _signal(one.process, signal.SIGTERM)
        until = time.monotonic() + STOP_S
        for one in them:
            with suppress(subprocess.TimeoutExpired):
                one.process.wait(max(0.1, until - time.monotonic()))
            _signal(one.process, signal.SIGKILL)  # whatever is left of its session
            one.process.wait()

    def __enter__(self) -> "Processes":
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all, however the block ended."""
        self.close()


def _signal(process: subprocess.Popen[bytes], by: signal.Signals) -> None:
    """To the process and all that it started: each is a session of its own."""
    try:
        os.killpg(process.pid, by)
    except ProcessLookupError:
        return
