"""A TCP line that can be cut and mended: ends of connections, or bytes that vanish while the connection stays.

Example::

    with CutLine() as line, deployment(..., way=line.lead_to) as running:
        line.cut()                       # connections end, and nobody gets through
        line.swallow()                   # connections stay, and nothing comes through them any more
        line.mend()                      # new connections get through; what was swallowed never comes
"""

import contextlib
import selectors
import socket
import threading
from typing import final

WAIT_S = 20.0
LOOK_S = 0.2


@final
class CutLine:
    """Listens at ``port``; one thread carries all bytes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._to, self._over, self._lock = 0, False, threading.Lock()
        self._cut = self._swallows = False
        self._others: dict[socket.socket, socket.socket] = {}
        self._dead: set[socket.socket] = set()
        self._looks = selectors.DefaultSelector()
        self._looks.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._carry)

    def lead_to(self, port: int) -> int:
        """Where the line ends; the port where it begins."""
        self._to = port
        return self.port

    def cut(self) -> None:
        """End all connections; who comes is turned away."""
        with self._lock:
            self._cut = True
            for one in list(self._others):
                self._end(one)

    def swallow(self) -> None:
        """Let every connection be, and bring nothing through any more: neither in those that are there nor in new ones."""
        with self._lock:
            self._swallows = True

    def mend(self) -> None:
        """Let new connections through; those whose bytes vanished are not heard of again."""
        with self._lock:
            if self._swallows:
                self._dead |= self._others.keys()
            self._cut = self._swallows = False

    def _carry(self) -> None:
        while not self._over:
            for key, _ in self._looks.select(LOOK_S):
                with self._lock, contextlib.suppress(OSError):
                    if key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._others:
                        self._bring(key.fileobj)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        if self._cut:
            near.close()
            return
        try:
            far = socket.create_connection(("127.0.0.1", self._to), timeout=WAIT_S)
        except OSError:
            near.close()
            return
        for one, other in ((near, far), (far, near)):
            one.settimeout(WAIT_S)
            self._others[one] = other
            self._looks.register(one, selectors.EVENT_READ)

    def _bring(self, source: socket.socket) -> None:
        try:
            data = source.recv(1 << 16)
        except OSError:
            data = b""
        silent = self._swallows or source in self._dead
        if not data and not silent:
            self._end(source)
        elif not data:
            self._looks.unregister(source)  # the other side must not even learn that it ended
        elif not silent:
            try:
                self._others[source].sendall(data)
            except OSError:
                self._end(source)

    def _end(self, one: socket.socket) -> None:
        for end in (one, self._others.get(one)):
            if end is not None and end in self._others:
                del self._others[end]
                with contextlib.suppress(KeyError):
                    self._looks.unregister(end)
                end.close()

    def __enter__(self) -> "CutLine":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over = True
        self._thread.join()
        for one in list(self._others):
            self._end(one)
        self._looks.close()
        self._listener.close()
