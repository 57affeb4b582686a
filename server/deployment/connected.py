"""Who is connected now, as the SuperLink tells it of the sites that were admitted.

Example::

    there = connected(server)                            # None: no SuperLink answers
    there["amazon"].online, there["amazon"].last_seen    # True, '2026-11-22T23:29:20+00:00'
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from fedrelease.server.deployment.folder import Server
from fedrelease.server.deployment.register import admitted

__all__ = ["Presence", "connected"]

PATIENCE = 2
"""Heartbeats that may be missing before the SuperLink takes a node for gone. [Flower 1.41: ``HEARTBEAT_PATIENCE``]"""
KNOCK_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Presence:
    """``last_seen``: of its last heartbeat, or when it left, ISO 8601 in UTC; ``None`` where it was never there."""

    online: bool
    last_seen: str | None


def connected(server: Server) -> Mapping[str, Presence] | None:
    """Each admitted site; ``None`` while the SuperLink does not answer."""
    if not _listens(server.settings.superlink_port):
        return None
    from fedrelease.server.deployment.control import Control, key_bytes

    sites = {key_bytes(one.key): name for name, one in admitted(server).items()}
    found = dict.fromkeys(sites.values(), Presence(online=False, last_seen=None))
    try:
        with Control(server) as control:
            nodes = control.nodes()
    except httpx.HTTPError:
        return None
    for node in nodes:
        if (site := sites.get(bytes(node.public_key))) is not None and node.status != "unregistered":
            found[site] = _presence(node.status, node.online_until, node.heartbeat_interval)
    return found


def _presence(status: str, online_until: float, interval_s: float) -> Presence:
    online = status == "online"
    seen = online_until - PATIENCE * interval_s if online else online_until
    if not online_until:
        return Presence(online=online, last_seen=None)
    return Presence(online=online, last_seen=datetime.fromtimestamp(seen, UTC).isoformat(timespec="seconds"))


def _listens(port: int) -> bool:
    """Whether anybody listens: cheaper than Flower's client, and than its patience."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=KNOCK_S):
            return True
    except OSError:
        return False
