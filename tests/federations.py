"""Small real federations for tests: an experiment file, the command line in a process of its own, ledgers, and who is left.

Example::

    federation = write_federation(tmp_path, tiny_base)
    summary = federation.simulate("releases")                       # in this process, with real workers
    done = federation.command("simulate", "--store", "other")       # the program, as a user runs it
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from tiny import experiment_text, make_rows

from fedrelease.client.ledger import Ledger, total
from fedrelease.experiment_file import load_experiment
from fedrelease.server.events import Watcher
from fedrelease.server.store import Store
from fedrelease.simulations.lending import Lender
from fedrelease.simulations.simulate import Ray, Summary, simulate, sites_folder

MAIN = "import sys; from fedrelease.cli import main; main()"
PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Federation:
    """An experiment file in a folder of its own; stores are made beside it."""

    folder: Path
    file: Path
    rows: Path
    cache: Path

    def simulate(
        self,
        store: str,
        *settings: str,
        workers: int = 1,
        watch: Watcher | None = None,
        said: list[str] | None = None,
        ray: Ray | None = None,
        lender: Lender | None = None,
    ) -> Summary:
        """A run in this process; on a lent engine, whose number of workers counts, nothing has to start."""
        return simulate(
            load_experiment(self.file, [f"federation.store={self.folder / store}", *settings]),
            store=self.folder / store,
            cache=self.cache,
            workers=workers,
            watch=watch or (lambda event: None),
            say=(said if said is not None else []).append,
            ray=ray,
            lender=lender,
        )

    def start(
        self, *arguments: str, environment: Mapping[str, str] | None = None, before: Callable[[], None] | None = None
    ) -> subprocess.Popen[str]:
        """The program, as a user starts it in the federation's folder: Ctrl-C works, whatever the tests' own does."""

        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if before is not None:
                before()

        return subprocess.Popen(
            [sys.executable, "-P", "-c", MAIN, *arguments],
            cwd=self.folder,
            env={**os.environ, "FEDRELEASE_CACHE": str(self.cache), "OMP_NUM_THREADS": "1", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=prepare,  # signals and limits of the child; there is no thread here
        )

    def command(
        self, *arguments: str, environment: Mapping[str, str] | None = None, before: Callable[[], None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The program, run to its end."""
        process = self.start(*arguments, environment=environment, before=before)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def spent(self, store: str) -> dict[str, float]:
        """The total of each site's ledger."""
        return {path.parent.name: _total(path) for path in sorted(self._sites(store).glob("*/ledger.jsonl"))}

    def ledger_bytes(self, store: str) -> dict[str, bytes]:
        """Each site's ledger as it lies there."""
        return {path.parent.name: path.read_bytes() for path in sorted(self._sites(store).glob("*/ledger.jsonl"))}

    def digest(self, store: str) -> str:
        """Of the head."""
        head = Store.open(self.folder / store).head()
        assert head is not None
        return head.digest

    def versions(self, store: str) -> list[str]:
        """All releases."""
        return [release.version for release in Store.open(self.folder / store).releases()]

    def leftovers(self, store: str) -> list[str]:
        """What a finished or tidied run must not leave beside its store."""
        folders = (self._sites(store), self.folder / store)
        names = ("handover*", ".*.tmp", "tmp/*", "spool/*", "publishing.json")
        return [str(path) for folder in folders for name in names for path in folder.glob(name)]

    def _sites(self, store: str) -> Path:
        return sites_folder(self.folder / store)


def _total(path: Path) -> float:
    entries = Ledger(path).entries()
    return total(entries, delta=entries[0].delta, accountant=entries[0].accountant)


def write_federation(
    folder: Path, base: Path, *, sites: Sequence[str] = ("a", "b"), rows: int = 24, **settings: str
) -> Federation:
    """A federation of a few rows a site and two quick rounds; ``settings`` as in :func:`tiny.experiment_text`."""
    folder.mkdir(parents=True, exist_ok=True)
    table = make_rows(folder / "rows.csv", sites=sites, rows=rows)
    quick = {"privacy": 'epsilon = 8.0\naccountant = "rdp"', "rounds": "2", **settings}
    file = folder / "tiny.toml"
    file.write_text(experiment_text(base, table, **quick), encoding="utf-8")
    return Federation(folder=folder, file=file, rows=table, cache=folder / "cache")


def eventually(holds: Callable[[], object], *, why: str, within_s: float = PATIENCE_S) -> None:
    """Wait until something holds; a test that waits in vain fails with ``why``."""
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until, why
        time.sleep(0.01)


def workers_of(home: Path) -> list[psutil.Process]:
    """Every live process of an engine with this home, by what it was started with."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            alive = process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if alive and "fedrelease.simulations.worker" in line and any(str(home) in part for part in line):
            found.append(process)
    return found


ZYGOTE = """
import json, os, sys
import fedrelease.cli, fedrelease.simulations.simulate, fedrelease.simulations.report, transformers.models.bert, peft
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child == 0:
        talk = os.open(asked["talk"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(talk, 1), os.dup2(talk, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(asked["folder"])
        code = 70
        try:
            code = fedrelease.cli.run(asked["arguments"])
        finally:
            os._exit(code)
    print(child, flush=True)
"""


class Zygote:
    """The program with its imports done once: each run is a fork of it, a process that can be killed like any other."""

    def __init__(self, federation: Federation) -> None:
        """Start and import."""
        self._federation = federation
        self.talk = federation.folder / "talk.txt"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", ZYGOTE],
            env={**os.environ, "FEDRELEASE_CACHE": str(federation.cache), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *arguments: str) -> int:
        """The number of the process that runs the command line."""
        folder = str(self._federation.folder)
        return self._ask({"arguments": arguments, "folder": folder, "talk": str(self.talk)})

    def wait(self, pid: int) -> int:
        """Its exit code; minus the signal that killed it."""
        return self._ask({"wait": pid})

    def kill_after(self, seconds: float, *arguments: str) -> int:
        """Start, kill without mercy after so many seconds, and wait; the exit code is -9 unless it was done before."""
        pid = self.start(*arguments)
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        return self.wait(pid)

    def _ask(self, question: Mapping[str, object]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
