"""Who may ask the release service, and how much: the register decides at each call, whatever a certificate still says.

Example::

    access = Access(server, limits=Limits())
    site = access.site(pem)                                # 'amazon'; raises when it was dismissed
    with access.stream(site): ...
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from fedrelease.deployment.certificates import certificate_of, public_line
from fedrelease.errors import FedreleaseError, IdentityError
from fedrelease.server.deployment.folder import Server
from fedrelease.server.deployment.register import admitted

__all__ = ["Access", "Limits", "TooMuch"]


class TooMuch(FedreleaseError):
    """A site asks more often, or for more at once, than it may."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one site may ask for.

    Attributes:
        per_second: requests in the long run. burst: so many at once before that.
        streams: that may be open at the same time.
    """

    per_second: float = 100.0
    burst: int = 400
    streams: int = 16


@dataclass(kw_only=True)
class _Bucket:
    """Tokens that are left, and when they were counted; ``told`` whether a refusal was logged since there were some."""

    tokens: float
    at: float
    told: bool = False


@final
class Access:
    """Asked from one thread: that of the service's event loop."""

    def __init__(self, server: Server, *, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody has asked yet."""
        self._server, self._limits, self._clock = server, limits, clock
        self._buckets: dict[str, _Bucket] = {}
        self._open = Counter[str]()

    def site(self, pem: bytes) -> str:
        """Whose certificate this is.

        Raises:
            IdentityError: nobody's who is admitted now.
        """
        key = public_line(certificate_of(pem).public_key()).decode("ascii")  # type: ignore[arg-type]  # EC, as checked there
        found = next((one.site for one in admitted(self._server).values() if one.key == key), None)
        if found is None:
            raise IdentityError(
                "this certificate's key is not that of an admitted site", rule="the register has it now"
            )
        return found

    def count(self, site: str) -> None:
        """One more request.

        Raises:
            TooMuch: there were too many. ``value`` is the site the first time, and nothing while it goes on.
        """
        now, limits = self._clock(), self._limits
        bucket = self._buckets.setdefault(site, _Bucket(tokens=float(limits.burst), at=now))
        bucket.tokens = min(float(limits.burst), bucket.tokens + (now - bucket.at) * limits.per_second)
        bucket.at = now
        if bucket.tokens < 1:
            first, bucket.told = not bucket.told, True
            rule = f"{limits.per_second:g} requests a second, {limits.burst} at once"
            raise TooMuch("too many requests", value=site if first else None, rule=rule)
        bucket.tokens, bucket.told = bucket.tokens - 1, False

    @contextmanager
    def stream(self, site: str) -> Iterator[None]:
        """One more open stream while the block runs.

        Raises:
            TooMuch: there are too many.
        """
        if self._open[site] >= self._limits.streams:
            raise TooMuch("too many open streams", value=site, rule=f"{self._limits.streams} at a time")
        self._open[site] += 1
        try:
            yield
        finally:
            self._open[site] -= 1
