"""Coming back soon: a SuperNode that was killed tells the server that its former self is gone, and comes in again.

Example::

    come_back_soon(site, Log(site.log_folder / "site.log", process="supernode"))     # before flower_supernode()

The SuperLink counts a node as connected until its heartbeats have been away for up to a minute, and refuses the same key
meanwhile ("Failed to activate SuperNode"); Flower's SuperNode then ends. [Flower 1.41: ``sql_linkstate.activate_node``] So the
number that the server gave to this node is kept in the site's folder; who finds it there at its start signs off with it first.
"""

import time
from collections.abc import Callable
from pathlib import Path

import httpx
from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse, DeactivateNodeRequest
from flwr.supernode.fleet_http_client import FleetHttpClient

from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.deployment.logs import Log
from fedrelease.files import write_durably

__all__ = ["come_back_soon"]

LEFT_S = 3.0
"""Between signing off and coming in: the server looks meanwhile, and learns that what was asked of the former self is lost."""
TRY_S = 3.0
TRIES = 30
"""Of a key that is not registered yet, or of a former self whose number is lost; then Flower says why, and ends."""
REFUSED = httpx.codes.PRECONDITION_FAILED


def come_back_soon(site: SiteFolder, log: Log) -> None:
    """From now on a SuperNode in this process signs off for a former one before it comes in."""
    plain = FleetHttpClient.ActivateNode

    def activate(client: FleetHttpClient, request: ActivateNodeRequest) -> ActivateNodeResponse:
        _sign_off(client, site.node_file, log)
        answer = _patiently(lambda: plain(client, request), log)
        write_durably(site.node_file, f"{answer.node_id}\n".encode(), mode=0o600)
        return answer

    setattr(FleetHttpClient, "ActivateNode", activate)  # noqa: B010  # Flower has no place for it


def _sign_off(client: FleetHttpClient, path: Path, log: Log) -> None:
    """End the former self's connection, if there is one; whoever has the key may do that."""
    known = path.read_text(encoding="ascii").strip() if path.exists() else ""
    if not known.isdigit():
        return
    try:
        client.DeactivateNode(DeactivateNodeRequest(node_id=int(known)))
    except httpx.HTTPStatusError as error:
        if error.response.status_code not in (REFUSED, httpx.codes.UNAUTHORIZED):
            raise  # the SuperLink is away: Flower tries again
        path.unlink(missing_ok=True)  # it had signed off itself, or the server has forgotten it
        return
    log("signed-off", why="this node ended without doing so")
    path.unlink(missing_ok=True)
    time.sleep(LEFT_S)


def _patiently(activate: Callable[[], ActivateNodeResponse], log: Log) -> ActivateNodeResponse:
    for number in range(1, TRIES):
        try:
            return activate()
        except httpx.HTTPStatusError as error:
            if error.response.status_code != REFUSED:
                log("not-let-in", why=error.response.text)  # such as that this machine's clock is off
                raise
        if number == 1:
            log("not-let-in", why="the key is not admitted, or another node with it is connected", again_in_s=TRY_S)
        time.sleep(TRY_S)
    return activate()
