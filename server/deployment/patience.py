"""How long a stranger may hold a connection: it has to say soon what it wants, and one address gets half of all places at most.

Example::

    uvicorn.run(application, http=patient(10.0, connections=256))

uvicorn waits for ever for a request's first lines, so that a few hundred silent connections would keep everybody else out. And a
connection over TLS that was closed goes on taking what comes, for half a minute, until the other side agrees that it is closed.
"""

import asyncio
from collections import Counter
from functools import partial
from typing import Any, cast, final

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Patient", "patient"]

LINGER_S = 0.5
"""Between looks at whether a connection is closed; for so long at least the other side can read why."""


def patient(patience_s: float, *, connections: int) -> type[asyncio.Protocol]:
    """uvicorn's HTTP with bounds, in the place of a class of protocols: a server makes one for each connection."""
    made = partial(Patient, patience_s=patience_s, peers=Counter(), of_one_peer=max(1, connections // 2))
    return cast(type[asyncio.Protocol], made)


@final
class Patient(asyncio.Protocol):
    """One connection: everything goes on to h11's protocol, which reads strictly; only time and numbers are watched here."""

    def __init__(self, *, patience_s: float, peers: Counter[str], of_one_peer: int, **facts: Any) -> None:
        """``facts`` are what uvicorn gives to its protocols."""
        self._inner = H11Protocol(**facts)
        self._patience_s, self._peers, self._of_one_peer = patience_s, peers, of_one_peer
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._closing = False
        self._peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it, and close it if its address has too many."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if peer else ""
        self._peers[self._peer] += 1
        self._inner.connection_made(self._transport)
        if self._peers[self._peer] > self._of_one_peer:
            self._transport.abort()
        else:
            self._wait()
            self._look()

    def data_received(self, data: bytes) -> None:
        """Pass it on. The time runs from a request's first byte to its last header."""
        before = self._inner.cycle
        if self._timer is None and (before is None or before.response_complete):
            self._wait()
        self._inner.data_received(data)
        if self._inner.cycle is not before:
            self._calm()

    def eof_received(self) -> None:
        """Pass it on."""
        self._inner.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """Forget it."""
        self._calm()
        if self._watch is not None:
            self._watch.cancel()
        self._peers[self._peer] -= 1
        if not self._peers[self._peer]:
            del self._peers[self._peer]
        self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._inner.resume_writing()

    def _wait(self) -> None:
        if self._transport is not None:
            self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._transport.abort)

    def _look(self) -> None:
        """End what was closed at the last look already: whoever still sends does not want to hear it."""
        if self._transport is None:
            return
        if self._closing:
            self._transport.abort()
            return
        self._closing = self._transport.is_closing()
        self._watch = asyncio.get_running_loop().call_later(LINGER_S, self._look)

    def _calm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
