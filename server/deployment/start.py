"""One run of an experiment with partner sites: the processes, the run, what it says, and what to do when something dies.

Example::

    end = serve(server, plan, watch=watch, say=print, until=stopped.is_set)

Every process may be killed at any time. A SuperLink that comes back knows its nodes, but its runs are lost; a new run goes on
from the store, and in the middle of a round from its spool: the release at the end is the same.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from fedrelease.deployment.logs import Line, Log, Tail
from fedrelease.deployment.notify import Notify
from fedrelease.deployment.processes import Processes, Program, module
from fedrelease.errors import EngineError
from fedrelease.experiment import Federation
from fedrelease.files import Json, write_durably
from fedrelease.server.deployment.application import EVENTS, FAILED, LEFT_OUT, NOT_TRACKED, STARTED
from fedrelease.server.deployment.control import Control, Status
from fedrelease.server.deployment.folder import Server
from fedrelease.server.deployment.metrics import metrics_served
from fedrelease.server.deployment.planned import write_planned
from fedrelease.server.deployment.register import admitted, open_invitations
from fedrelease.server.deployment.release_index import write_served
from fedrelease.server.deployment.traces import lacking
from fedrelease.server.deployment.watchdog import MARGIN_S, Patience, Sight, Watchdog
from fedrelease.server.events import Watcher, event_of

__all__ = ["Plan", "end_children", "serve", "server_programs"]

LOOK_S = 0.5
AGAIN_S = 5.0
MOST_FAILURES = 5
"""Runs that may fail one after the other without a release between them."""
LASTING = ("RoundFailed", "EngineError", "StoreBusy")
"""Kinds of failure that may be over the next time."""
GRACE_S = 5.0
"""Until a ServerApp whose run is over has to have ended."""
LOST = "lost"
"""How a run ended whose processes died: it says nothing about the run, and does not count as a failure of it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is about: an experiment as JSON, the folder of releases, the base's folder, and trackers by their flags."""

    experiment: str
    store: Path
    base: Path
    track: tuple[str, ...] = ()

    @property
    def patience(self) -> Patience:
        """How long its runs may be silent."""
        deadline_s = json.loads(self.experiment).get("federation", {}).get("deadline_s", Federation.deadline_s)
        return Patience(progress_s=float(deadline_s) + MARGIN_S)


def serve(server: Server, plan: Plan, *, watch: Watcher, say: Callable[[str], None], until: Callable[[], bool]) -> None:
    """Run an experiment's rounds to their end with the sites that are admitted, or until ``until()`` is true.

    Args:
        watch: told what happens in the rounds. say: told in sentences what happens around them.

    Raises:
        EngineError: the processes do not start, or run after run fails without a release.
        FedreleaseError: what the run said that a person can mend.
    """
    log = Log(server.log_folder / "server.log", process="server")
    log("started", pid=os.getpid(), store=str(plan.store.absolute()))
    write_served(server, store=plan.store, base=plan.base)
    write_planned(server, experiment=plan.experiment, base=plan.base)
    with Processes(log=log) as processes, metrics_served(server) as address:
        for program in server_programs(server):
            processes.start(program)
        say(f"SuperLink on 127.0.0.1:{server.settings.superlink_port}, sites come in at {server.settings.listen}")
        if address:
            say(f"metrics for Prometheus at {address}")
        if (missing := lacking(server.settings.traces)) is not None:
            say(missing)
        _Run(server, plan, processes, watch, say, log).to_its_end(until)
    log("stopped")


def server_programs(server: Server) -> tuple[Program, ...]:
    """SuperLink, executor of ServerApps, gateway and release service, in the order in which they start."""
    folder, settings = server.folder.absolute(), server.settings
    programs = str(Path(sys.executable).parent)  # Flower starts its programs by their names
    home = {
        "FLWR_HOME": str(folder / "flower"),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    secret = ("--superexec-auth-secret-file", str(server.secret_file.absolute()))
    superlink = (
        *_installed("flower-superlink", "--host", "127.0.0.1", "--port", str(settings.superlink_port)),
        *("--ssl-certfile", str(server.certificate_file.absolute()), "--ssl-keyfile", str(server.key_file.absolute())),
        *("--ssl-ca-certfile", str(server.authority_file.absolute()), "--enable-supernode-auth"),
        *("--database", str(folder / "superlink.db"), "--isolation", "process", *secret),
        "--disable-runtime-dependency-installation",
    )
    address = ("--runtime-api-address", f"127.0.0.1:{settings.superlink_port}")
    executor = (
        *_installed("flower-superexec", *address, "--root-certificates", str(server.authority_file.absolute())),
        *secret,
    )
    gateway = module("fedrelease.server.deployment.gateway", str(folder))
    releases = module("fedrelease.server.deployment.release_service", str(folder))
    commands = {"superlink": superlink, "superexec": executor, "gateway": gateway, "releases": releases}
    return tuple(
        Program(name=name, command=command, output=server.log_folder / f"{name}.out", environment=home)
        for name, command in commands.items()
    )


def _installed(name: str, *arguments: str) -> tuple[str, ...]:
    """A program of the environment that this one runs in."""
    return (str(Path(sys.executable).parent / name), *arguments)


class _Run:
    """A run and those that go on with it."""

    def __init__(
        self,
        server: Server,
        plan: Plan,
        processes: Processes,
        watch: Watcher,
        say: Callable[[str], None],
        log: Log,
    ) -> None:
        self._server, self._plan, self._processes = server, plan, processes
        self._watch, self._say, self._log = watch, say, log
        self._events = Tail(server.log_folder / EVENTS, from_now=True)
        self._heard = 0
        self._notify = Notify()
        self._failures = 0
        self._failed: Line | None = None
        self._application: int | None = None

    def to_its_end(self, until: Callable[[], bool]) -> None:
        try:
            self._on_and_on(until)
        finally:
            self._notify.stopping()
            self._events.close()

    def _on_and_on(self, until: Callable[[], bool]) -> None:
        while not until():
            try:
                end = self._once(until)
            except httpx.HTTPError as error:  # the SuperLink ended just when it was told something
                end = Status(state="finished", how="failed", why=f"the SuperLink went away: {type(error).__name__}")
            if end is None or end.how == "completed":
                return
            pause_s = 0.0 if end.how == LOST else AGAIN_S
            if end.how != LOST:
                self._failures += 1
                self._judge(end)
            self._say(f"the run ended: {_shown(end)}; it goes on in {pause_s:g} s")
            self._free_the_store()
            self._wait(pause_s, until)

    def _once(self, until: Callable[[], bool]) -> Status | None:
        """One run of Flower's, from its start to its end; ``None`` when ``until()`` came first."""
        with Control(self._server) as control:
            self._wait_for_superlink(control)
            while (
                not self._processes.alive("superexec") and not until()
            ):  # a run that nobody can take would be lost at once
                self._wait(LOOK_S, until)
            self._notify.ready(f"sites come in at {self._server.settings.listen}")
            for left in control.stop_left_over():
                self._log("run-lost", run=str(left), why="the server that began it is gone")
            if not self._wait_for_sites(until):
                return None
            control.register(admitted(self._server))
            others = self._applications()
            run = control.start_run(settings=self._write_settings())
            self._log("run-started", run=str(run))
            self._application, starts = None, self._starts()
            watchdog, self._heard = Watchdog(self._plan.patience), 0
            while not until():
                self._tend()
                self._application = self._application or next(iter(self._applications() - others), None)
                status = self._status(control, run)  # first: a ServerApp whose run is finished ends too
                if status is not None and status.state == "finished":
                    self._hear()
                    return status
                if (gone := self._gone(starts)) is not None:
                    return self._abandon(control, run, gone)
                if (why := watchdog.look(self._sight(status))) is not None:
                    return self._unstuck(control, run, why)
                time.sleep(LOOK_S)
            self._stop(control, run)
        return None

    def _free_the_store(self) -> None:
        """End the ServerApp of a run that is over: one that is stopped, or hangs, would keep the next from its store."""
        for number in end_children(self._processes.ids().get("superexec"), within_s=GRACE_S, meanwhile=self._tend):
            self._log("application-killed", pid=number)

    def _sight(self, status: Status | None) -> Sight:
        return Sight(
            state=None if status is None else status.state,
            application=bool(self._applications()),
            events=self._heard,
        )

    def _applications(self) -> frozenset[int]:
        """Processes of ServerApps: also one that died before it could say that it is there is missed at once."""
        return _children(self._processes.ids().get("superexec"))

    def _unstuck(self, control: Control, run: int, why: str) -> Status:
        """Start again what the run hangs in; what it accepted and released stays."""
        self._log("run-stuck", run=str(run), why=why)
        self._stop(control, run)
        self._processes.again("superexec")  # and with it the ServerApp, which it started
        self._processes.again("superlink")
        return Status(state="finished", how="stuck", why=why)

    def _wait_for_sites(self, until: Callable[[], bool]) -> bool:
        """Wait until all who were invited have come, or for as long as the settings say; then somebody has to be there."""
        end, told = time.monotonic() + self._server.settings.wait_s, False
        while not until():
            missing = open_invitations(self._server)
            if admitted(self._server) and (not missing or time.monotonic() > end):
                return True
            if not told and (missing or time.monotonic() > end):
                self._say(f"waiting for {', '.join(missing) or 'a site; invite one: fedrelease server invite SITE'}")
                told = True
            self._tend()
            time.sleep(LOOK_S)
        return False

    def _status(self, control: Control, run: int) -> Status | None:
        """Where the run is; ``None`` while the SuperLink is away."""
        try:
            return control.status(run)
        except (httpx.HTTPError, KeyError):
            return None

    def _wait_for_superlink(self, control: Control) -> None:
        control.wait_until_ready(meanwhile=self._tend, starts=lambda: self._processes.started("superlink"))

    def _starts(self) -> Mapping[str, int]:
        return {name: self._processes.started(name) for name in ("superlink", "superexec")}

    def _gone(self, starts: Mapping[str, int]) -> str | None:
        """Which process of the run died: Flower would find that out by itself in a minute."""
        for name, before in starts.items():
            if self._processes.started(name) != before or not self._processes.alive(name):
                return name
        if self._application is not None and not psutil.pid_exists(self._application):
            return "serverapp"
        return None

    def _abandon(self, control: Control, run: int, gone: str) -> Status:
        """End what is left of a run, so that the next one finds the store free."""
        self._log("run-lost", run=str(run), why=f"{gone} ended")
        if gone == "superlink":
            self._processes.again("superexec")
        self._wait_for_superlink(control)
        self._stop(control, run)
        return Status(state="finished", how=LOST, why=f"the process {gone} ended")

    def _stop(self, control: Control, run: int) -> None:
        try:
            control.stop_run(run)
        except httpx.HTTPError as error:
            self._log("not-stopped", run=str(run), why=type(error).__name__)

    def _judge(self, end: Status) -> None:
        """Go on, unless the run said something that does not pass by itself."""
        told, self._failed = self._failed, None
        if told is not None and told["kind"] not in LASTING:
            raise _told_error(told)
        if self._failures >= MOST_FAILURES:
            raise (
                _told_error(told)
                if told
                else EngineError(
                    f"{self._failures} runs failed one after the other",
                    value=_shown(end),
                    hint=f"read {self._server.log_folder}",
                )
            )

    def _tend(self) -> None:
        self._notify.alive()
        self._processes.tend()
        self._hear()

    def _hear(self) -> None:
        """What the ServerApp wrote since the last time."""
        for facts in self._events.lines():
            self._heard += 1
            event = event_of(facts)
            if event is not None:
                self._watch(event)
                self._failures = 0 if facts["event"] == "Released" else self._failures
            elif facts["event"] == LEFT_OUT:
                self._say(f"{facts['site']} is left out of this run: {facts['why']}")
            elif facts["event"] == NOT_TRACKED:
                self._say(str(facts["what"]))
            elif facts["event"] == FAILED:
                self._failed = facts
            elif facts["event"] == STARTED:
                self._application = int(str(facts["pid"]))

    def _wait(self, seconds: float, until: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            self._tend()
            time.sleep(LOOK_S)

    def _write_settings(self) -> Path:
        settings: dict[str, Json] = {
            "experiment": self._plan.experiment,
            "store": str(self._plan.store.absolute()),
            "base": str(self._plan.base.absolute()),
            "wait_s": self._server.settings.wait_s,
            "poll_s": self._server.settings.poll_s,
            "track": list(self._plan.track),
            "traces": self._server.settings.traces,
        }
        path = self._server.folder.absolute() / "run.json"
        write_durably(path, json.dumps(settings).encode(), mode=0o600)
        return path


def end_children(number: int | None, *, within_s: float, meanwhile: Callable[[], None]) -> list[int]:
    """Wait for what a process has started to end by itself, then kill the rest; which those were."""
    end = time.monotonic() + within_s
    while _children(number) and time.monotonic() < end:
        meanwhile()
        time.sleep(min(LOOK_S, within_s))
    left = sorted(_children(number))
    for child in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return left


def _children(number: int | None) -> frozenset[int]:
    """Running processes that a process has started: the superexec starts one for each ServerApp."""
    try:
        children = psutil.Process(number).children() if number is not None else ()
        return frozenset(child.pid for child in children if child.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return frozenset()


def _shown(end: Status) -> str:
    return f"{end.how}: {end.why}" if end.why else end.how


def _told_error(told: Line | None) -> EngineError:
    told = told or {}
    error = EngineError(
        str(told.get("what")), value=told.get("value"), rule=str(told.get("rule", "")), hint=str(told.get("hint", ""))
    )
    return error
