"""How rounds see the sites: by name, through three questions; who carries the messages is another module's business.

Example::

    for reply in sites.train(request, state, ("amazon", "movie")):
        print(reply.site, reply.refused or "answered")
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from fedrelease.messages import Answer, Request
from fedrelease.server.stragglers import Stragglers
from fedrelease.update import State

__all__ = ["Reply", "Sites"]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One site's answer, or, in ``refused``, why there is none. ``arrays`` is empty unless the site trained.

    ``companions``: what came beside the arrays, by ``<kind>/<name>``.
    ``sent_bytes``: of what travelled, where that was another form of the arrays.
    ``more``: another reply has arrived already, so that the two may be written down together.
    """

    site: str
    answer: Answer | None = None
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    companions: Mapping[str, Tensor] = field(default_factory=dict)
    sent_bytes: int | None = None
    refused: str | None = None
    more: bool = False


class Sites(Protocol):
    """Whoever can ask sites: over Flower, on one machine or on many."""

    def names(self) -> Sequence[str]:
        """All sites, sorted."""
        ...

    def train(
        self,
        request: Request,
        state: State,
        sites: Sequence[str],
        companions: State | None = None,
        stragglers: Stragglers | None = None,
    ) -> Iterator[Reply]:
        """Ask ``sites`` to train from ``state``; one reply each, as they arrive; a late site's reply is a refusal.

        ``companions`` go with the state. ``stragglers`` may say before the deadline that nobody is waited for any more; it is
        told by the caller what counts, and where sites cannot be late it is not asked.
        """
        ...

    def evaluate(
        self, request: Request, state: State, sites: Sequence[str], stragglers: Stragglers | None = None
    ) -> Iterator[Reply]:
        """Ask ``sites`` to evaluate ``state`` on their hold-outs; one reply each."""
        ...
