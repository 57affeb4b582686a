"""Where a round's time goes: spans around its parts, told to whoever traces; where nobody does, nothing is done.

Example::

    with span("round", version="0.1.1"):
        with span("aggregate", strategy="fedavg"): ...
        spanned("answer", site="amazon")                   # a part that began with the block around it, and ends now

Names and attributes are what the log says too: versions, strategies, names of sites, reasons. Nothing of rows. Which library
writes spans, and where to, is :mod:`fedrelease.server.deployment.traces`'s business: here are only the two calls.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TypeAlias

__all__ = ["Fact", "Tracer", "span", "spanned", "traced_by"]

Fact: TypeAlias = str | int | float | bool


class Tracer(Protocol):
    """Who is told of spans."""

    def span(self, name: str, facts: Mapping[str, Fact]) -> AbstractContextManager[None]:
        """A span that lasts as long as the block; those begun inside are its parts."""
        ...

    def spanned(self, name: str, facts: Mapping[str, Fact]) -> None:
        """A part of the span that is open, which began with it and ends now."""
        ...


_tracer: Tracer | None = None


@contextmanager
def traced_by(tracer: Tracer | None) -> Iterator[None]:
    """Tell ``tracer`` of all spans of this process while the block runs; ``None`` = nobody."""
    global _tracer
    before, _tracer = _tracer, tracer
    try:
        yield
    finally:
        _tracer = before


def span(name: str, **facts: Fact) -> AbstractContextManager[None]:
    """A part of a round, for as long as the block runs."""
    return nullcontext() if _tracer is None else _tracer.span(name, facts)


def spanned(name: str, **facts: Fact) -> None:
    """A part that began with the open span and ends now."""
    if _tracer is not None:
        _tracer.spanned(name, facts)
