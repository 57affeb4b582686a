"""A connection to the release service of a server: for a site with its own key, and for who serves what was released.

Example::

    with ReleaseClient(identity) as client:
        digest, files = client.base()
        for moved in client.follow("stable", until=stopped.is_set): ...

A call that is cut is made again, for as long as ``patience_s`` without an answer; what a server refuses is not.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeVar, final

import grpc
from google.protobuf.message import Message

from fedrelease.deployment import releases_pb2 as messages
from fedrelease.deployment.release_calls import (
    BASE,
    CONTENTS,
    FOLLOW,
    LIST,
    MANIFEST,
    MOST_BYTES,
    POINTERS,
    READ,
    STAT,
    Call,
)
from fedrelease.errors import FedreleaseError, FetchError, IdentityError

__all__ = ["Identity", "Patience", "ReleaseClient", "RemoteFile"]

ANSWER_S = 60.0
READ_S = 600.0
LONGEST_PAUSE_S = 5.0
WATCH_S = 0.2
OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MOST_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),
)
LASTING = {
    grpc.StatusCode.PERMISSION_DENIED: "ask the operator whether this site was dismissed",
    grpc.StatusCode.UNAUTHENTICATED: "ask the operator whether this site was dismissed",
    grpc.StatusCode.NOT_FOUND: "fedrelease site fetch --help",
    grpc.StatusCode.INVALID_ARGUMENT: "",
    grpc.StatusCode.OUT_OF_RANGE: "",
    grpc.StatusCode.DATA_LOSS: "tell the operator: fedrelease fsck says what is damaged there",
    grpc.StatusCode.FAILED_PRECONDITION: "",
    grpc.StatusCode.UNIMPLEMENTED: "install the version of fedrelease that the operator has",
}
"""What does not pass by itself, and what to do then."""
Told = TypeVar("Told", bound=Message)
Asked = TypeVar("Asked", bound=Message)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Where the service is, whom to trust, and who we are: three PEM texts, of which the key is secret."""

    address: str
    authority: bytes
    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file that the service has."""

    name: str
    sha256: str
    size: int


@final
class Patience:
    """How long to go on without an answer. Each answer, and each byte, is a new beginning."""

    def __init__(self, patience_s: float, *, stop: threading.Event | None = None) -> None:
        """``stop`` ends waiting at once."""
        self._most_s, self._stop = patience_s, stop or threading.Event()
        self._since, self._times = time.monotonic(), 0

    def reset(self) -> None:
        """Something came."""
        self._since, self._times = time.monotonic(), 0

    def wait(self, error: grpc.RpcError, address: str) -> None:
        """Wait before the next try, longer each time.

        Raises:
            FedreleaseError: it is no use, or the time is up.
        """
        code = error.code()
        if code in LASTING or self._stop.is_set() or time.monotonic() - self._since > self._most_s:
            raise _told(error, address) from error
        self._times += 1
        self._stop.wait(min(LONGEST_PAUSE_S, 0.1 * 2 ** min(self._times, 6)) * random.uniform(0.5, 1.0))


@final
class ReleaseClient:
    """All calls of the service. May be used by several threads."""

    def __init__(self, identity: Identity, *, patience_s: float = 60.0) -> None:
        """Nothing is sent yet."""
        self._address, self._patience_s = identity.address, patience_s
        credentials = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
        self._channel = grpc.secure_channel(identity.address, credentials, OPTIONS)

    @property
    def address(self) -> str:
        """``host:port``."""
        return self._address

    def patience(self, stop: threading.Event | None = None) -> Patience:
        """For a stream that goes on where it was cut."""
        return Patience(self._patience_s, stop=stop)

    def releases(self) -> messages.Listing:
        """All releases and the generation of the channels."""
        return self._once(LIST, messages.ListRequest())

    def manifest(self, digest: str) -> bytes:
        """The bytes of a release's manifest."""
        return bytes(self._once(MANIFEST, messages.ManifestRequest(digest=digest)).manifest)

    def size(self, sha256: str) -> int:
        """Bytes of a blob."""
        return int(self._once(STAT, messages.StatRequest(sha256=sha256)).size)

    def base(self, digest: str = "") -> tuple[str, tuple[RemoteFile, ...]]:
        """The digest and the files of a base; of the run's without one."""
        found = self._once(BASE, messages.BaseRequest(digest=digest))
        return found.digest, tuple(_file(one) for one in found.files)

    def contents(self) -> tuple[RemoteFile, ...]:
        """What a copy of the releases needs."""
        parts = self._streamed(CONTENTS, messages.ContentsRequest())
        return tuple(_file(one) for part in parts for one in part.files)

    def pointers(self) -> tuple[bytes, bytes]:
        """The log and the channels."""
        parts = self._streamed(POINTERS, messages.PointersRequest())
        return b"".join(part.log for part in parts), parts[-1].channels if parts else b""

    def read(self, sha256: str, offset: int) -> Iterator[bytes]:
        """The bytes of a blob from an offset, once: who is cut asks again.

        Raises:
            grpc.RpcError: it was cut, or refused.
        """
        call = self._stream(READ)(messages.ReadRequest(sha256=sha256, offset=offset), timeout=READ_S)
        try:
            for piece in call:
                yield piece.data
        finally:
            call.cancel()

    def follow(self, channel: str, *, until: Callable[[], bool]) -> Iterator[messages.Moved]:
        """Where a channel points, now and whenever it moves, over all interruptions, until ``until()`` is true.

        Raises:
            FedreleaseError: the service refuses.
        """
        before: str | None = None
        while not until():
            call = self._stream(FOLLOW)(messages.FollowRequest(channel=channel))
            with _cancelled(call, until):
                try:
                    for moved in call:
                        if moved.digest != before:
                            yield moved
                        before = moved.digest
                except grpc.RpcError as error:
                    if until():
                        return
                    if error.code() in LASTING:
                        raise _told(error, self._address) from error
            time.sleep(random.uniform(0.5, 1.5))  # not all sites at once

    def _once(self, call: Call[Asked, Told], request: Asked) -> Told:
        ask = self._channel.unary_unary(call.path, *_forms(call))
        patience = self.patience()
        while True:
            try:
                return ask(request, timeout=ANSWER_S)  # type: ignore[no-any-return]  # as its form says
            except grpc.RpcError as error:
                patience.wait(error, self._address)

    def _streamed(self, call: Call[Asked, Told], request: Asked) -> list[Told]:
        patience = self.patience()
        while True:
            try:
                return list(self._stream(call)(request, timeout=ANSWER_S))
            except grpc.RpcError as error:
                patience.wait(error, self._address)

    def _stream(self, call: Call[Asked, Told]) -> grpc.UnaryStreamMultiCallable:
        return self._channel.unary_stream(call.path, *_forms(call))

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def __enter__(self) -> "ReleaseClient":
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, however the block ended."""
        self.close()


@final
class _cancelled:
    """Cancels a call as soon as ``until()`` is true, and at the end of the block."""

    def __init__(self, call: grpc.Call, until: Callable[[], bool]) -> None:
        self._call, self._until, self._over = call, until, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(WATCH_S) and not self._until():
            pass
        self._call.cancel()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


def _forms(call: Call[Asked, Told]) -> tuple[Callable[[Asked], bytes], Callable[[bytes], Told]]:
    return call.request.SerializeToString, call.reply.FromString


def _file(told: messages.File) -> RemoteFile:
    return RemoteFile(name=told.name, sha256=told.sha256, size=told.size)


def _told(error: grpc.RpcError, address: str) -> FedreleaseError:
    code, details = error.code(), str(error.details() or "")[:200]
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return IdentityError(f"the release service refuses: {details}", value=address, hint=LASTING[code])
    if code in LASTING:
        return FetchError(f"the release service refuses: {details}", value=code.name, hint=LASTING[code])
    return FetchError(
        f"the release service cannot be reached: {details}",
        value=address,
        rule="it takes only certificates that its own authority signed, over TLS",
        hint="run the same command again: it goes on where it stopped; see whether a firewall is in the way",
    )
