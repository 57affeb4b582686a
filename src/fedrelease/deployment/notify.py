"""Telling systemd that a service is ready, and that it is alive; says nothing where nobody listens.

Example::

    notify = Notify()
    notify.ready("answers sites at 0.0.0.0:9443")
    notify.alive()                                   # again and again: a service that goes silent is started again

The unit says ``Type=notify`` and, for the second, ``WatchdogSec=60``. [``sd_notify(3)``: datagrams to ``NOTIFY_SOCKET``]
"""

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import final

__all__ = ["Notify"]

SHARE = 3
"""How often it is said within the time after which systemd takes a service for dead."""


@final
class Notify:
    """The way to the service manager that started this process, if one did."""

    def __init__(
        self, environment: Mapping[str, str] = os.environ, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing is sent yet. ``environment`` has ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC`` from systemd."""
        name = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name  # @ stands for Linux's abstract names
        within = environment.get("WATCHDOG_USEC", "")
        self._every_s = int(within) / 1e6 / SHARE if within.isdigit() and int(within) else None
        self._clock, self._said = clock, float("-inf")

    def ready(self, status: str) -> None:
        """The service does what it is for; ``status`` is for ``systemctl status``."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """It goes on; may be called as often as one likes."""
        if self._every_s is not None and self._clock() - self._said >= self._every_s:
            self._said = self._clock()
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """It ends in order."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as way:
                way.sendto(text.encode(), self._address)
        except OSError:  # a service does not end because nobody listens
            return
