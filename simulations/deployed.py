"""A whole deployment on this machine by the commands that operators and partners type, each shown before it runs.

Example::

    found = deploy(Path("demo-deploy"), overrides=[], compare=True, say=print)
    found.head, found.digest, found.same                    # ('0.2.2', 'sha256:...', True)
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fedrelease.cache import cache_folder
from fedrelease.data.partition import site_names
from fedrelease.data.sources import Table, load_table
from fedrelease.deployment.processes import module
from fedrelease.errors import EngineError, ExperimentError
from fedrelease.experiment import Experiment
from fedrelease.experiment_file import load_experiment, to_toml
from fedrelease.server.store import Store

__all__ = ["Deployed", "deploy"]

STUDY = "default.toml"
SHORT = ("phase.0.rounds=1", "phase.1.rounds=2", "data.limit_per_site=400")
STOP_S = 30.0
SERVER_S = 120


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What it came to; ``same`` says whether a simulation ended with that digest, ``None`` where none was run."""

    store: Path
    head: str
    digest: str
    same: bool | None


def deploy(
    folder: Path, *, overrides: Sequence[str], compare: bool, say: Callable[[str], None], most: int | None = None
) -> Deployed:
    """Run a server and a site for each kind of text in four-sites, from no key to the last release.

    Args:
        folder: everything goes into it; it must be new or empty.
        compare: with noise that repeats, and a simulation afterwards.
        say: told each command, and what it prints.
        most: only so many of the sites; ``None`` for all, which a comparison needs.

    Raises:
        EngineError: a command failed; the text has its words.
    """
    _check_new(folder)
    experiment = _experiment(overrides)
    sites = _write_rows(experiment, folder)[:most]
    file = folder / "experiment.toml"
    file.write_text(to_toml(experiment), encoding="utf-8")
    command, port, store = _Commands(folder, say), _free_ports(3 + len(sites)), folder / "releases"
    command.run("server", "init", "--folder", f"{folder}/server", "--name", "four-sites", "--port", str(port))
    for name in sites:
        command.run("server", "invite", name, "--folder", f"{folder}/server", "--out", f"{folder}/{name}.invitation")
    noise = ("--noise", "seeded") if compare else ()
    with ExitStack() as running:
        begin = ("server", "start", str(file), "--folder", f"{folder}/server", "--store", str(store))
        server = running.enter_context(command.running(*begin))
        for place, name in enumerate(sites):
            own = ("--folder", f"{folder}/{name}", "--data", f"{folder}/{name}.jsonl", "--port", str(port + 3 + place))
            command.run("site", "init", f"{folder}/{name}.invitation", *own, "--wait", str(SERVER_S), *noise)
            running.enter_context(command.running("site", "start", "--folder", f"{folder}/{name}", "--quiet"))
        if server.wait() != 0:
            raise EngineError(
                "the server ended with an error", value=server.returncode, hint=f"read {folder}/server/log"
            )
    head = Store.open(store).releases()[-1]
    same = _simulated(command, file, folder) == head.digest if compare else None
    return Deployed(store=store, head=head.version, digest=head.digest, same=same)


def _experiment(overrides: Sequence[str]) -> Experiment:
    text = (resources.files("fedrelease.simulations.studies") / STUDY).read_text("utf-8")
    return load_experiment(None, [*SHORT, *overrides], text=text)


def _simulated(command: "_Commands", file: Path, folder: Path) -> str:
    command.run("simulate", str(file), "--store", f"{folder}/simulated", "--quiet")
    return Store.open(folder / "simulated").releases()[-1].digest


def _check_new(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise ExperimentError(
            f"{folder} is not empty",
            value=str(folder),
            rule="a demonstration begins with new keys",
            hint=f"rm -r {folder}, or name another with --folder",
        )
    folder.mkdir(parents=True, exist_ok=True)


def _write_rows(experiment: Experiment, folder: Path) -> tuple[str, ...]:
    """One file of rows for each site, as a partner would have it."""
    table = load_table(experiment.data, experiment.model.labels, cache=cache_folder())
    values = table.columns[experiment.data.partition.column]
    names = site_names(values)
    for value, name in names.items():
        lines = (json.dumps(row) for row in _rows(table, experiment.model.labels, values, value))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tuple(sorted(names.values()))


def _rows(table: Table, labels: Sequence[str], values: Sequence[str], value: str) -> Iterator[dict[str, str]]:
    for text, label, own in zip(table.texts, table.labels, values, strict=True):
        if own == value:
            yield {"text": text, "label": labels[label]}


def _free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on now."""
    for first in range(9443, 60000, 50):
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise EngineError("no free ports were found", value=count)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class _Commands:
    """Runs ``fedrelease`` as somebody at a terminal would; keys go into the demonstration's folder."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._say = say
        self._environment = {**os.environ, "FEDRELEASE_KEYS": str((folder / "keys").absolute())}

    def run(self, *arguments: str) -> None:
        """Run one command to its end, and say what it says.

        Raises:
            EngineError: it failed.
        """
        self._say(f"$ fedrelease {shlex.join(arguments)}")
        done = subprocess.run(
            self._command(arguments), env=self._environment, stdout=subprocess.PIPE, text=True, check=False
        )
        for line in done.stdout.splitlines():
            self._say(line)
        if done.returncode != 0:
            raise EngineError("a command failed", value=f"fedrelease {shlex.join(arguments)}")

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """One command while the block runs; it is asked to stop at its end."""
        self._say(f"$ fedrelease {shlex.join(arguments)} &")
        process = subprocess.Popen(
            [*module("fedrelease.deployment.tied", str(os.getpid())), *self._command(arguments)],
            env=self._environment,
            stdout=sys.stderr.fileno(),
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @staticmethod
    def _command(arguments: Sequence[str]) -> tuple[str, ...]:
        return module("fedrelease.cli", *arguments)
