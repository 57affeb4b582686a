"""What a ServerApp of a deployment has that a simulation's has not: a file of settings, sites known by their keys, a log.

Example::

    with deployed(folder / "run.json", run=context.run_id) as deployment:
        deployment.connected(grid).nodes()                  # {'amazon': 8123...}: those who are there now
"""

import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, final

from flwr.serverapp import Grid
from flwr.superlink.grid import http_grid

from fedrelease.deployment.logs import Log
from fedrelease.deployment.pace import set_pace
from fedrelease.errors import FedreleaseError, PolicyRefused, RoundFailed, StoreError
from fedrelease.experiment_document import from_document
from fedrelease.files import Json
from fedrelease.models.bases import open_base
from fedrelease.server.deployment.control import key_bytes
from fedrelease.server.deployment.first_query import FirstQuery
from fedrelease.server.deployment.folder import Server, open_server
from fedrelease.server.deployment.register import admitted
from fedrelease.server.deployment.traces import traces
from fedrelease.server.events import Event, RoundStarted, event_facts
from fedrelease.server.tracking.choice import Tracking, chosen_trackers

__all__ = ["EVENTS", "FAILED", "LEFT_OUT", "NOT_TRACKED", "STARTED", "AdmittedSites", "Ask", "Deployment", "deployed"]

EVENTS = "events.log"
FAILED = "failed"
LEFT_OUT = "left-out"
NOT_TRACKED = "not-tracked"
TAKES_PART = "takes-part"
STARTED = "started"
FULL = (errno.ENOSPC, errno.EDQUOT)
LOOK_S = 0.5
FIRST_S = 60.0
AGAIN_S = 10.0
"""For an answer to the first query: of a site that was just started, and of one that was silent before."""


Keys: TypeAlias = Callable[[], Mapping[str, str]]


class Ask(Protocol):
    """Asks sites by their nodes: ``None`` for each that takes part, or why it does not; nothing for those who are silent."""

    def __call__(self, nodes: Mapping[str, int], *, within_s: float) -> Mapping[str, str | None]:
        """Ask, and wait for answers."""
        ...


@final
class AdmittedSites:
    """The sites whose keys the server admitted. A node is who its key says, whatever it claims.

    Each is asked once before it is asked for work; one that differs is left out of the run, and counts as refused in its rounds.
    """

    def __init__(self, grid: Grid, keys: Keys, *, ask: Ask, log: Log) -> None:
        """``keys`` says the public key of each site, as the register has it then: a site may come back with another one.

        Who takes part at all is settled here: a site that is admitted later waits for the next run.
        """
        self._grid, self._keys, self._ask, self._log = grid, keys, ask, log
        self._names = tuple(sorted(keys()))
        self._asked: dict[str, int] = {}
        self._reasons: dict[str, str] = {}
        self._silent: set[str] = set()

    def names(self) -> Sequence[str]:
        """All that were admitted, sorted: also those who are away or left out."""
        return self._names

    def nodes(self) -> Mapping[str, int]:
        """Those who are connected now and take part; who is new here is asked first."""
        there = self._there()
        new = {site: node for site, node in there.items() if self._asked.get(site) != node}
        if new:
            self._hear(new)
        return {site: node for site, node in there.items() if self._asked.get(site) == node and not self._out(site)}

    def why_not(self, site: str) -> str:
        """Why a site is not among the nodes."""
        silent = "it did not answer the first query" if site in self._silent else "not connected"
        return self._reasons.get(site, silent)

    def wait_for(self, *, at_most_s: float) -> None:
        """Wait until all are there, or the time is up; then ask them.

        Raises:
            RoundFailed: nobody is there.
            PolicyRefused: nobody takes part, and everybody who is there said why.
        """
        until = time.monotonic() + at_most_s
        while len(self._there()) < len(self._names) and time.monotonic() < until:
            time.sleep(LOOK_S)
        if self.nodes():
            return
        if self._reasons:
            raise PolicyRefused(
                "no site takes part in this experiment",
                value="; ".join(f"{site}: {why}" for site, why in sorted(self._reasons.items())),
                rule="at least one site keeps to its own rules and can",
                hint="change the experiment, or ask the partners; `fedrelease site policy EXPERIMENT.toml` says it there",
            )
        raise RoundFailed(
            "no site is connected",
            value=", ".join(self.names()) or "none is admitted",
            rule=f"at least one site is there within {at_most_s:g} s",
            hint="start a site: fedrelease site start",
        )

    def _there(self) -> dict[str, int]:
        sites = {key_bytes(line): site for site, line in self._keys().items() if site in self._names}
        there = ((sites.get(bytes(node.public_key)), node.node_id) for node in self._grid.get_nodes())
        return {site: node for site, node in there if site is not None}

    def _out(self, site: str) -> bool:
        return site in self._reasons

    def _hear(self, new: Mapping[str, int]) -> None:
        within_s = AGAIN_S if new.keys() <= self._silent else FIRST_S
        answers = self._ask(new, within_s=within_s)
        self._silent = (self._silent | new.keys()) - answers.keys()
        for site, why in sorted(answers.items()):
            self._asked[site] = new[site]
            self._reasons.pop(site, None)
            if why is None:
                self._log(TAKES_PART, site=site)
            else:
                self._reasons[site] = why
                self._log(LEFT_OUT, site=site, why=why)


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One run on a server.

    Attributes:
        settings: ``experiment`` (JSON), ``store``, ``base``, ``wait_s``, ``poll_s``.
        keys: the public key of each site that may take part.
    """

    settings: Mapping[str, Json]
    keys: Keys
    log: Log

    def watch(self, event: Event) -> None:
        """Write an event down."""
        if isinstance(event, RoundStarted):
            self.log.about(round=event.round)
        facts = dict(event_facts(event))
        self.log(str(facts.pop("event")), **facts)

    @property
    def tracking(self) -> Tracking:
        """What the server's settings say; what a tracker cannot do is written down.

        Raises:
            ExperimentError: a tracker is not installed any more.
        """
        flags, store = self.settings.get("track", []), Path(str(self.settings["store"]))
        chosen = chosen_trackers([str(flag) for flag in flags] if isinstance(flags, list) else [])
        return Tracking(choices=chosen, name=store.name, warn=lambda line: self.log(NOT_TRACKED, what=line))

    def connected(self, grid: Grid) -> AdmittedSites:
        """Who may take part; waits for them, and asks them.

        Raises:
            RoundFailed: nobody is there.
            PolicyRefused: nobody who is there takes part.
        """
        folder = Path(str(self.settings["base"]))
        ask = FirstQuery(
            grid=grid,
            experiment=from_document(json.loads(str(self.settings["experiment"]))),
            base=open_base(str(folder), cache=folder).digest,
            poll_s=float(str(self.settings["poll_s"])),
        )
        sites = AdmittedSites(grid, self.keys, ask=ask, log=self.log)
        sites.wait_for(at_most_s=float(str(self.settings["wait_s"])))
        return sites


def _keys(server: Server) -> Mapping[str, str]:
    return {name: one.key for name, one in admitted(server).items()}


@contextmanager
def deployed(path: Path, *, run: int) -> Iterator[Deployment]:
    """The run of Flower's that a file describes; how it fails is written down before the error goes on."""
    settings = json.loads(path.read_bytes())
    set_pace(http_grid, idle_s=float(settings["poll_s"]))
    server = open_server(path.parent)
    log = Log(path.parent / "log" / EVENTS, process="serverapp", run=str(run))
    log(STARTED, pid=os.getpid())
    try:
        with traces(str(settings.get("traces", "")), log.path.parent, run=str(run)):
            yield Deployment(settings=settings, keys=lambda: _keys(server), log=log)
    except FedreleaseError as error:
        log(FAILED, kind=type(error).__name__, exit_code=error.exit_code, **error.to_json())
        raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        full = _full(error, store=str(settings["store"]))
        log(FAILED, kind=type(full).__name__, exit_code=full.exit_code, **full.to_json())
        raise full from error


def _full(error: OSError, *, store: str) -> StoreError:
    """What passes only when a person makes room, however often it is tried again."""
    return StoreError(
        "the disk is full",
        value=str(error.filename or store),
        rule="a round is written before it counts",
        hint="free some space, then run the same command again: nothing that was accepted or released is lost",
    )
