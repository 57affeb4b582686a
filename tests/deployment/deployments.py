"""A tiny deployment for tests: a server and its sites by the program that people type, as processes of their own.

Example::

    with deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=2) as running:
        running.wait()
        running.processes()                                   # {'superlink': 4711, 'executor of a': 4712, ...}
"""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from tiny import experiment_text, make_rows

from fedrelease.files import read_lines
from fedrelease.server.store import Store

PATIENCE_S = 240.0
STOP_S = 40.0
FIRST_PORT, PORTS, PLACES = 20_000, 16, 760
"""Below those that the system gives to outgoing connections; each process has a place of its own for so many."""


@dataclass(kw_only=True)
class Running:
    """A deployment whose processes run."""

    folder: Path
    sites: Sequence[str]
    environment: dict[str, str]
    ports: int
    base: Path
    noise: str
    ways: Mapping[int, int] = field(default_factory=dict)
    server: subprocess.Popen[bytes] | None = None
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def store(self) -> Path:
        """The folder of releases."""
        return self.folder / "releases"

    @property
    def metrics(self) -> str:
        """Where Prometheus would ask, if it was wished for."""
        return f"127.0.0.1:{self.ports + 3 + len(self.sites)}"

    def command(self, *arguments: str) -> str:
        """Run one command to its end; what it said."""
        done = subprocess.run(
            program(*arguments),
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one command and leave it running."""
        with (self.folder / "said.out").open("ab") as said:
            process = subprocess.Popen(
                program(*arguments), env=self.environment, cwd=self.folder, stdout=said, stderr=said
            )
        self.started.append(process)
        return process

    def start_server(self) -> None:
        """``server start``."""
        self.server = self.begin("server", "start", "experiment.toml", "--folder", "server", "--store", "releases")

    def start_site(self, name: str) -> subprocess.Popen[bytes]:
        """``site start``."""
        return self.begin("site", "start", "--folder", name)

    def join(self, name: str, *, data: str | None = None, folder: str | None = None) -> None:
        """``site init`` by the invitation of a site, at the address by which it reaches the server."""
        folder = folder or name
        port = str(self.ports + 3 + self.sites.index(name))
        begin = ("site", "init", f"{name}.invitation", "--folder", folder, "--data", data or f"{name}.csv")
        self.command(*begin, "--port", port, "--noise", self.noise, "--wait", "60")
        path = self.folder / folder / "site.toml"
        path.write_text(f'base = "{self.base}"\n' + self._by_their_ways(path.read_text()))

    def _by_their_ways(self, settings: str) -> str:
        for own, other in self.ways.items():
            settings = settings.replace(f'"127.0.0.1:{own}"', f'"127.0.0.1:{other}"')
        return settings

    def wait(self, at_most_s: float = PATIENCE_S) -> int:
        """Wait for the server's end; its exit code."""
        assert self.server is not None
        try:
            return self.server.wait(at_most_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the federation did not end:\n{self.said()[-3000:]}") from None

    def over(self) -> bool:
        """Whether the server has ended."""
        return self.server is not None and self.server.poll() is not None

    def said(self) -> str:
        """What all commands said."""
        return (self.folder / "said.out").read_text(errors="replace")

    def processes(self) -> dict[str, int]:
        """Process numbers of everything below the commands, by what they are."""
        found = {}
        for name, log in self._logs():
            for line in log.read_text().splitlines() if log.exists() else ():
                facts = json.loads(line)
                if facts["event"] == "process-started":
                    found[f"{facts['name']}{name}"] = int(facts["pid"])
        for child in self._serverapps(found.get("superexec")):
            found["serverapp"] = child
        return {name: number for name, number in found.items() if psutil.pid_exists(number)}

    def _logs(self) -> Iterator[tuple[str, Path]]:
        yield "", self.folder / "server" / "log" / "server.log"
        for site in self.sites:
            yield f" of {site}", self.folder / site / "log" / "site.log"

    @staticmethod
    def _serverapps(superexec: int | None) -> list[int]:
        try:
            return [child.pid for child in psutil.Process(superexec).children()] if superexec else []
        except psutil.NoSuchProcess:
            return []

    def kill(self, name: str, by: signal.Signals = signal.SIGKILL) -> int | None:
        """A signal to a process by its name; its number, or ``None`` if it was not there."""
        number = self.processes().get(name)
        with contextlib.suppress(ProcessLookupError):
            if number is not None:
                os.kill(number, by)
                return number
        return None

    def charges(self, site: str) -> list[dict[str, object]]:
        """The whole lines of a site's ledger: one that a crash or a full disk tore never counted."""
        return [json.loads(line) for line in read_lines(self.folder / site / "home" / "ledger.jsonl")]

    def versions(self) -> list[str]:
        """All releases, in order."""
        return [release.version for release in Store.open(self.store).releases()]


@contextlib.contextmanager
def deployment(
    folder: Path,
    base: Path,
    *,
    sites: Sequence[str],
    rounds: int,
    noise: str = "seeded",
    metrics: str = "",
    track: Sequence[str] = (),
    way: Callable[[int], int] | None = None,
    **settings: str,
) -> Iterator[Running]:
    """A server whose sites were invited and admitted, all of them running; everything is stopped at the end.

    ``way`` is told the gateway's port, and says by which one the sites come in.
    """
    quick = {"privacy": 'epsilon = 8.0\naccountant = "rdp"', "rounds": str(rounds), **settings}
    (folder / "experiment.toml").write_text(experiment_text(base, folder / "rows.csv", **quick))
    _write_rows(folder, sites)
    environment = {**os.environ, "FEDRELEASE_KEYS": str(folder / "keys"), "FEDRELEASE_CACHE": str(folder / "cache")}
    ports = free_ports(4 + len(sites))
    ways = {ports: way(ports)} if way is not None else {}
    running = Running(
        folder=folder, sites=sites, environment=environment, ports=ports, base=base, noise=noise, ways=ways
    )
    running.command("server", "init", "--folder", "server", "--port", str(running.ports))
    path = folder / "server" / "server.toml"
    path.write_text(path.read_text().replace("track = []", f"track = {json.dumps(track)}"))
    if metrics:
        path.write_text(path.read_text().replace('metrics = ""', f'metrics = "{running.metrics}"'))
    for name in sites:
        running.command("server", "invite", name, "--folder", "server")
    try:
        running.start_server()
        for name in sites:
            running.join(name)
            running.start_site(name)
        yield running
    finally:
        stop(running.started)


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End them as an operator would, then for good."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def program(*arguments: str) -> list[str]:
    """``fedrelease`` of the installation under test."""
    return [sys.executable, "-P", "-m", "fedrelease.cli", *arguments]


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    for turn in range(PLACES):
        first = FIRST_PORT + (os.getpid() + 97 * turn) % PLACES * PORTS  # test processes have numbers in a row
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _write_rows(folder: Path, sites: Sequence[str]) -> None:
    """One table for all, and one a site, in the same order."""
    make_rows(folder / "rows.csv", sites=sites, rows=40)
    with (folder / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in sites:
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for row in rows if row["site"] == name)
