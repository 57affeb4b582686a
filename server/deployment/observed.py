"""What the logs of a server tell: processes, the run in progress, releases, refusals. One fold for `server status` and metrics.

Example::

    observed = observe(server.log_folder)              # everything that the logs still have
    observed.round.version, observed.processes["superlink"].starts

Whoever goes on watching feeds further lines to :meth:`Observed.hear`; its counts never go down.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from fedrelease.deployment.logs import Line, read_log
from fedrelease.server.deployment.application import EVENTS, FAILED, LEFT_OUT
from fedrelease.server.events import Event, NotWaitedFor, Opened, Released, RoundStarted, SiteAnswered, event_of

__all__ = ["LOGS", "NewestRelease", "Observed", "ProcessFacts", "Round", "Told", "Totals", "observe"]

LOGS = ("server.log", "gateway.log", EVENTS)
LAST = 10
"""Refusals and problems that are shown."""
PROBLEMS = {"process-ended", "run-lost", "run-stuck", "not-stopped", FAILED, LEFT_OUT}


@dataclass(kw_only=True)
class ProcessFacts:
    """One program of the server, since the server was started. ``since`` is ISO 8601 in UTC."""

    pid: int | None
    since: str
    starts: int = 1


@dataclass(frozen=True, kw_only=True)
class Told:
    """A refusal or a problem: when, by which process, what."""

    time: str
    process: str
    what: str


@dataclass(kw_only=True)
class Round:
    """The round in progress, or the last one; ``ended`` says which. ``step`` is ``train`` or ``evaluate``."""

    version: str
    phase: str
    number: int
    cohort: tuple[str, ...]
    since: str
    step: str = "train"
    answered: dict[str, str | None] = field(default_factory=dict)
    ended: bool = False


@dataclass(frozen=True, kw_only=True)
class NewestRelease:
    """The last version that was made: its epsilon is the worst site's, its seconds those of its round."""

    version: str
    digest: str
    time: str
    held: str | None
    epsilon: float | None
    bytes_up: int
    bytes_down: int
    seconds: float


@dataclass(kw_only=True)
class Totals:
    """Counts over all that was heard; seconds are of rounds that ended."""

    released: int = 0
    held: int = 0
    rounds: int = 0
    round_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    refusals: Counter[int] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)


@final
@dataclass(kw_only=True)
class Observed:
    """Everything heard until now, as of the last line."""

    pid: int | None = None
    started: str | None = None
    store: str | None = None
    run: str | None = None
    run_since: str | None = None
    opened: Opened | None = None
    round: Round | None = None
    newest: NewestRelease | None = None
    epsilon: float | None = None
    processes: dict[str, ProcessFacts] = field(default_factory=dict)
    last_seen: dict[str, str] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    refusals: deque[Told] = field(default_factory=lambda: deque(maxlen=LAST))
    problems: deque[Told] = field(default_factory=lambda: deque(maxlen=LAST))

    def hear(self, line: Line) -> None:
        """Take in one line of any of the logs."""
        event = event_of(line)
        if event is not None:
            self._event(event, str(line.get("time")))
            return
        name = str(line.get("event"))
        if name in PROBLEMS:
            self.problems.append(_told(line, _problem(line)))
        if (hear := _HEARD.get(name)) is not None:
            hear(self, line)

    def _event(self, event: Event, time: str) -> None:
        if isinstance(event, Opened):
            self.opened = event
        elif isinstance(event, RoundStarted):
            self.round = Round(
                version=event.version, phase=event.phase, number=event.round, cohort=event.cohort, since=time
            )
        elif isinstance(event, SiteAnswered):
            self._answer(event, time)
        elif isinstance(event, NotWaitedFor):
            what = f"late in {event.version}: {', '.join(event.sites)}; {event.allowed_s:g} s were allowed"
            self.problems.append(Told(time=time, process="serverapp", what=what))
        elif isinstance(event, Released):
            self._release(event, time)

    def _answer(self, event: SiteAnswered, time: str) -> None:
        self.totals.answers[event.site, "refused" if event.refused else "answered"] += 1
        if event.refused is None:
            self.last_seen[event.site] = time
        if event.epsilon is not None:
            self.epsilon = max(self.epsilon or 0.0, event.epsilon)
        if self.round is not None and self.round.version == event.version:
            if self.round.step != event.step:
                self.round.step, self.round.answered = event.step, {}
            self.round.answered[event.site] = event.refused

    def _release(self, event: Released, time: str) -> None:
        totals = self.totals
        totals.held, totals.released = totals.held + bool(event.held), totals.released + (not event.held)
        totals.bytes_up, totals.bytes_down = totals.bytes_up + event.bytes_up, totals.bytes_down + event.bytes_down
        totals.rounds, totals.round_seconds = totals.rounds + 1, totals.round_seconds + event.seconds
        told = {name: getattr(event, name) for name in ("version", "digest", "held", "epsilon", "seconds")}
        self.newest = NewestRelease(time=time, bytes_up=event.bytes_up, bytes_down=event.bytes_down, **told)
        if self.round is not None and self.round.version == event.version:
            self.round.ended = True

    def _begin(self, line: Line) -> None:
        if line.get("process") != "server":
            return  # each ServerApp says that it started, too
        self.pid, self.started, self.store = _number(line.get("pid")), str(line.get("time")), str(line.get("store"))
        self.processes, self.run, self.run_since = {}, None, None

    def _program(self, line: Line) -> None:
        name, pid, time = str(line.get("name")), _number(line.get("pid")), str(line.get("time"))
        known = self.processes.get(name)
        self.processes[name] = ProcessFacts(pid=pid, since=time, starts=known.starts + 1 if known else 1)
        if known is not None:
            self.totals.restarts[name] += 1

    def _run(self, line: Line) -> None:
        self.run, self.run_since = str(line.get("run")), str(line.get("time"))

    def _refusal(self, line: Line) -> None:
        self.totals.refusals[_number(line.get("status")) or 0] += 1
        what = (
            f"{line.get('status')} {line.get('method')} {line.get('path')} from {line.get('peer')}: {line.get('why')}"
        )
        self.refusals.append(_told(line, what))

    def _admission(self, line: Line) -> None:
        self.last_seen[str(line.get("site"))] = str(line.get("time"))


_HEARD: Mapping[str, Callable[[Observed, Line], None]] = {
    "started": Observed._begin,
    "process-started": Observed._program,
    "run-started": Observed._run,
    "refused": Observed._refusal,
    "admitted": Observed._admission,
}


def observe(folder: Path) -> Observed:
    """What the logs in ``folder`` tell, each from its oldest line."""
    observed = Observed()
    for name in LOGS:
        for line in read_log(folder / name):
            observed.hear(line)
    return observed


def _told(line: Line, what: str) -> Told:
    return Told(time=str(line.get("time")), process=str(line.get("process")), what=what)


def _problem(line: Line) -> str:
    if line.get("event") == "process-ended":
        return f"{line.get('name')} ended with status {line.get('status')}, again in {line.get('again_in_s')} s"
    parts = (line.get(key) for key in ("site", "what", "value", "why", "hint"))
    return f"{line.get('event')}: " + "; ".join(str(part) for part in parts if part)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None
