"""A SuperNode that outlives a line that breaks, and that ends where it cannot: its supervisor then starts it again.

Example::

    outlive_cuts(fleet_http_connection)           # before flower_supernode()
    end_with_any_thread(log)

Flower takes a connection that ends in the middle of TLS for a wrong certificate, and gives up for good; the process stays, since
other threads of it go on, and nobody learns that it does nothing any more. So does one whose heartbeats have ended with an error.
[Flower 1.41: ``http_retry.make_simple_http_retry_invoker``, ``HeartbeatSender``]
"""

import os
import threading
from collections.abc import Callable
from functools import partial
from types import ModuleType

import httpx
from flwr.supercore.retry import RetryInvoker

from fedrelease.deployment.logs import Log

__all__ = ["end_with_any_thread", "outlive_cuts"]

MAKER = "make_simple_http_retry_invoker"
CUT = "eof occurred"
"""What OpenSSL says of an end that was not announced."""


def outlive_cuts(module: ModuleType) -> None:
    """Let a module of Flower's try again when a line was cut; one that has no place for it is left alone."""
    plain: Callable[[], RetryInvoker] | None = getattr(module, MAKER, None)
    if plain is not None:
        setattr(module, MAKER, partial(_patient, plain))


def _patient(plain: Callable[[], RetryInvoker]) -> RetryInvoker:
    invoker = plain()
    flowers = invoker.should_giveup

    def gives_up(error: Exception) -> bool:
        return not _was_cut(error) and flowers is not None and flowers(error)

    invoker.should_giveup = gives_up
    return invoker


def _was_cut(error: Exception) -> bool:
    return isinstance(error, httpx.TransportError) and CUT in str(error).lower()


def end_with_any_thread(log: Log) -> None:
    """From now on this process ends when one of its threads ends with an error."""

    def end(died: threading.ExceptHookArgs) -> None:
        log("thread-died", name=died.thread.name if died.thread else "", why=died.exc_type.__name__)
        os._exit(1)

    threading.excepthook = end
