"""Who calls the gateway: a request's key is an admitted site's and has signed it, and its messages are that site's own.

Example::

    callers = Callers(server)
    callers.site_of(request.headers)           # 'amazon', or None
    clock_fault(request.headers, now=now)      # 'signed 62 s ahead of this server's clock; ...', or None
    in_own_name(path, body)                    # False: a reply that says it comes from another node

The SuperLink asks for the key too, but only after it has read a body; and it lets a node say that a reply is another one's.
"""

import binascii
import os
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import final

from cryptography.exceptions import UnsupportedAlgorithm
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from google.protobuf.message import DecodeError

from fedrelease.server.deployment.control import key_bytes
from fedrelease.server.deployment.folder import Server
from fedrelease.server.deployment.register import admitted

__all__ = ["Callers", "clock_fault", "in_own_name"]

PUSH = "/v1/fleet/push-messages"
AHEAD_S, BEHIND_S = float(SYSTEM_TIME_TOLERANCE), float(TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE)
"""What the SuperLink takes of a signed time; it refuses the rest without a word of why."""


@final
class Callers:
    """The keys of admitted sites, as the register has them now: who is dismissed is unknown from the next request on."""

    def __init__(self, server: Server) -> None:
        """Nothing is read yet."""
        self._server = server
        self._seen: tuple[tuple[str, int, int], ...] | None = None
        self._sites: Mapping[bytes, str] = {}

    def site_of(self, headers: Mapping[str, str]) -> str | None:
        """The site whose key signed a request's time; whether that is now is for the SuperLink to say."""
        try:
            key = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
            signature = b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
            time = headers[TIMESTAMP_HEADER].encode("ascii")
            site = self._known().get(key)
            signed = site is not None and verify_signature(bytes_to_public_key(key), time, signature)
        except (KeyError, ValueError, TypeError, binascii.Error, UnsupportedAlgorithm):
            return None
        return site if signed else None

    def _known(self) -> Mapping[bytes, str]:
        """Keys by site; read anew when a file of the register is another."""
        folder = self._server.folder / "sites"
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else []
        facts = ((entry.name, entry.stat()) for entry in entries)
        seen = tuple((name, stat.st_ino, stat.st_mtime_ns) for name, stat in facts)
        if seen != self._seen:
            self._sites = {key_bytes(one.key): site for site, one in admitted(self._server).items()}
            self._seen = seen
        return self._sites


def clock_fault(headers: Mapping[str, str], *, now: datetime) -> str | None:
    """Why the time that a request was signed at is none that the SuperLink takes; ``None`` where it is one."""
    try:
        ahead_s = (datetime.fromisoformat(headers[TIMESTAMP_HEADER]).astimezone(UTC) - now).total_seconds()
    except (KeyError, ValueError, OverflowError):
        return "not signed at any time"
    if -BEHIND_S < ahead_s < AHEAD_S:
        return None
    off = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this server's clock"
    return f"signed {off}; at most {AHEAD_S:g} s ahead or {BEHIND_S:g} s behind is let in: the site's clock is off"


def in_own_name(path: str, body: bytes) -> bool:
    """Whether every reply in a request says that it comes from the node that sent it.

    Raises:
        ValueError: the body is none of Flower's.
    """
    if path != PUSH:
        return True
    try:
        found = PushMessagesRequest.FromString(body)
    except DecodeError as error:
        raise ValueError("not a request of Flower's") from error
    return all(message.metadata.src_node_id == found.node.node_id for message in found.messages_list)
