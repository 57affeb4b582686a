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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from tiny import experiment_text, make_rows

from fedrelease.server.store import Store

PATIENCE_S = 240.0
STOP_S = 40.0


@dataclass(kw_only=True)
class Running:
    """A deployment whose processes run."""

    folder: Path
    sites: Sequence[str]
    environment: dict[str, str]
    ports: int
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

    def start_site(self, name: str) -> None:
        """``site start``."""
        self.begin("site", "start", "--folder", name)

    def wait(self, at_most_s: float = PATIENCE_S) -> int:
        """Wait for the server's end; its exit code."""
        assert self.server is not None
        try:
            return self.server.wait(at_most_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the federation did not end:\n{self.said()[-3000:]}") from None

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

    def kill(self, name: str) -> bool:
        """SIGKILL to a process by its name; whether it was there."""
        number = self.processes().get(name)
        with contextlib.suppress(ProcessLookupError):
            if number is not None:
                os.kill(number, signal.SIGKILL)
                return True
        return False

    def charges(self, site: str) -> list[dict[str, object]]:
        """The lines of a site's ledger."""
        path = self.folder / site / "home" / "ledger.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

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
    **settings: str,
) -> Iterator[Running]:
    """A server whose sites were invited and admitted, all of them running; everything is stopped at the end."""
    quick = {"privacy": 'epsilon = 8.0\naccountant = "rdp"', "rounds": str(rounds), **settings}
    (folder / "experiment.toml").write_text(experiment_text(base, folder / "rows.csv", **quick))
    _write_rows(folder, sites)
    environment = {**os.environ, "FEDRELEASE_KEYS": str(folder / "keys"), "FEDRELEASE_CACHE": str(folder / "cache")}
    running = Running(folder=folder, sites=sites, environment=environment, ports=free_ports(4 + len(sites)))
    running.command("server", "init", "--folder", "server", "--port", str(running.ports))
    if metrics:
        path = folder / "server" / "server.toml"
        path.write_text(path.read_text().replace('metrics = ""', f'metrics = "{running.metrics}"'))
    for name in sites:
        running.command("server", "invite", name, "--folder", "server")
    try:
        running.start_server()
        for place, name in enumerate(sites):
            port = str(running.ports + 3 + place)
            begin = ("site", "init", f"{name}.invitation", "--folder", name, "--data", f"{name}.csv", "--port", port)
            running.command(*begin, "--noise", noise, "--wait", "60")
            with (folder / name / "site.toml").open("r+") as file:
                text = file.read()
                file.seek(0)
                file.write(f'base = "{base}"\n{text}')
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
    for first in range(20_000 + os.getpid() % 20_000, 60_000, 50):
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
