"""What a ServerApp of a deployment has that a simulation's has not: a file of settings, sites known by their keys, a log.

Example::

    with deployed(folder / "run.json") as deployment:
        deployment.connected(grid).nodes()                  # {'amazon': 8123...}: those who are there now
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from flwr.serverapp import Grid
from flwr.superlink.grid import http_grid

from fedrelease.deployment.logs import Log
from fedrelease.deployment.pace import set_pace
from fedrelease.errors import FedreleaseError, RoundFailed
from fedrelease.files import Json
from fedrelease.server.deployment.control import key_bytes
from fedrelease.server.events import Event, event_facts

__all__ = ["EVENTS", "FAILED", "STARTED", "AdmittedSites", "Deployment", "deployed"]

EVENTS = "events.log"
FAILED = "failed"
STARTED = "started"
LOOK_S = 0.5


@final
class AdmittedSites:
    """The sites whose keys the server admitted. A node is who its key says, whatever it claims."""

    def __init__(self, grid: Grid, keys: Mapping[str, str]) -> None:
        """``keys``: the public key of each site, as the register has it."""
        self._grid = grid
        self._sites = {key_bytes(line): site for site, line in keys.items()}

    def names(self) -> Sequence[str]:
        """All that were admitted, sorted: also those who are away."""
        return tuple(sorted(self._sites.values()))

    def nodes(self) -> Mapping[str, int]:
        """Those who are connected now."""
        there = ((self._sites.get(bytes(node.public_key)), node.node_id) for node in self._grid.get_nodes())
        return {site: node for site, node in there if site is not None}

    def wait_for(self, *, at_most_s: float) -> None:
        """Wait until all are there, or the time is up.

        Raises:
            RoundFailed: nobody is there.
        """
        until = time.monotonic() + at_most_s
        while len(self.nodes()) < len(self._sites) and time.monotonic() < until:
            time.sleep(LOOK_S)
        if not self.nodes():
            raise RoundFailed(
                "no site is connected",
                value=", ".join(self.names()) or "none is admitted",
                rule=f"at least one site is there within {at_most_s:g} s",
                hint="start a site: fedrelease site start",
            )


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One run on a server.

    Attributes:
        settings: ``experiment`` (JSON), ``store``, ``base``, ``wait_s``, ``poll_s``.
        keys: the public key of each site that may take part.
    """

    settings: Mapping[str, Json]
    keys: Mapping[str, str]
    log: Log

    def watch(self, event: Event) -> None:
        """Write an event down."""
        facts = dict(event_facts(event))
        self.log(str(facts.pop("event")), **facts)

    def connected(self, grid: Grid) -> AdmittedSites:
        """Who may take part; waits for them.

        Raises:
            RoundFailed: nobody is there.
        """
        sites = AdmittedSites(grid, self.keys)
        sites.wait_for(at_most_s=float(str(self.settings["wait_s"])))
        return sites


@contextmanager
def deployed(path: Path) -> Iterator[Deployment]:
    """The run that a file describes; how it fails is written down before the error goes on."""
    settings = json.loads(path.read_bytes())
    set_pace(http_grid, idle_s=float(settings["poll_s"]))
    keys = settings.pop("sites")
    log = Log(path.parent / "log" / EVENTS, process="serverapp")
    log(STARTED, pid=os.getpid())
    try:
        yield Deployment(settings=settings, keys=keys, log=log)
    except FedreleaseError as error:
        log(FAILED, kind=type(error).__name__, exit_code=error.exit_code, **error.to_json())
        raise
