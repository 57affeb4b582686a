"""What the release service answers to each call, and how it refuses.

Example::

    service = ReleaseService(server, limits=Limits())
    grpc_server.add_generic_rpc_handlers((service.handlers(),))
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, cast, final

import grpc
from google.protobuf.message import Message

from fedrelease.deployment import releases_pb2 as messages
from fedrelease.deployment.logs import Log
from fedrelease.deployment.release_calls import CALLS, PIECE_BYTES, SERVICE
from fedrelease.errors import DamagedRelease, FedreleaseError, IdentityError, ModelError, ReleaseNotFound, StoreError
from fedrelease.manifest import check_digest, check_sha256
from fedrelease.server import channels
from fedrelease.server.contents import Pointers, pointers_of
from fedrelease.server.deployment.folder import Server
from fedrelease.server.deployment.release_access import Access, Limits, TooMuch
from fedrelease.server.deployment.release_index import ReleaseIndex, ServedFile

__all__ = ["ReleaseService"]

LOOK_S = 0.5
"""How often it is looked whether a channel moved, and whether the one who follows it is still admitted."""
READ_BYTES = 1 << 20
"""From the disk at a time: several pieces, since going to a thread and back takes as long as a piece."""
PIECES_A_LOOK = 64
FILES_A_MESSAGE = 2000
Answer = Callable[[Message], Message]
Answers = Callable[[Message], AsyncIterator[Message | None]]
"""None: there is nothing to tell now."""


class _NoSuchOffset(FedreleaseError):
    """An offset beyond the end."""


class _WrongRequest(FedreleaseError):
    """What was asked is not of the form that it should have."""


STATUS: tuple[tuple[type[FedreleaseError], grpc.StatusCode], ...] = (
    (IdentityError, grpc.StatusCode.PERMISSION_DENIED),
    (TooMuch, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (_NoSuchOffset, grpc.StatusCode.OUT_OF_RANGE),
    (_WrongRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (ReleaseNotFound, grpc.StatusCode.NOT_FOUND),
    (DamagedRelease, grpc.StatusCode.DATA_LOSS),
    (ModelError, grpc.StatusCode.FAILED_PRECONDITION),
    (FedreleaseError, grpc.StatusCode.UNAVAILABLE),
)
"""The first that fits; what is left passes by itself, such as a publish that is under way."""


@final
class ReleaseService:
    """The answers. Reading files happens in threads; everything else in the event loop."""

    def __init__(self, server: Server, *, limits: Limits) -> None:
        """Nothing listens yet."""
        self._index = ReleaseIndex(server)
        self._access = Access(server, limits=limits)
        self._log = Log(server.log_folder / "releases.log", process="releases")

    def handlers(self) -> grpc.GenericRpcHandler:
        """All calls, as gRPC wants them."""
        once: dict[str, Answer] = {
            "List": self._list,
            "Manifest": self._manifest,
            "Stat": self._stat,
            "Base": self._base,
        }
        streams: dict[str, Answers] = {
            "Follow": self._follow,
            "Read": self._read,
            "Contents": self._contents,
            "Pointers": self._pointers,
        }
        made = {}
        for call in CALLS:
            forms = {
                "request_deserializer": call.request.FromString,
                "response_serializer": call.reply.SerializeToString,
            }
            if call.streams:
                made[call.name] = grpc.unary_stream_rpc_method_handler(
                    self._stream(call.name, streams[call.name]), **forms
                )
            else:
                made[call.name] = grpc.unary_unary_rpc_method_handler(self._once(call.name, once[call.name]), **forms)
        return grpc.method_handlers_generic_handler(SERVICE, made)

    def _once(self, name: str, act: Answer) -> Callable[[Message, grpc.aio.ServicerContext], Awaitable[Message]]:
        async def answer(request: Message, context: grpc.aio.ServicerContext) -> Message:
            try:
                self._access.count(self._site(context))
                return await asyncio.to_thread(act, request)
            except (FedreleaseError, OSError) as error:
                return await self._refuse(name, context, error)

        return answer

    def _stream(self, name: str, act: Answers) -> Callable[[Message, grpc.aio.ServicerContext], AsyncIterator[Message]]:
        async def answer(request: Message, context: grpc.aio.ServicerContext) -> AsyncIterator[Message]:
            with ExitStack() as stack:
                try:
                    site = self._site(context)
                    self._access.count(site)
                    stack.enter_context(self._access.stream(site))
                    told = 0
                    async for message in act(request):
                        told += 1
                        if message is None or told % PIECES_A_LOOK == 0:
                            self._site(context)  # it may have been dismissed meanwhile
                        if message is not None:
                            yield message
                except (FedreleaseError, OSError) as error:
                    await self._refuse(name, context, error)

        return answer

    def _site(self, context: grpc.aio.ServicerContext) -> str:
        found = context.auth_context().get("x509_pem_cert") or [b""]
        return self._access.site(found[0])

    async def _refuse(self, name: str, context: grpc.aio.ServicerContext, error: FedreleaseError | OSError) -> Message:
        """End a call, with a line in the log; one that asks too much too often gets only one."""
        if isinstance(error, OSError):  # its text would tell a path
            code, what, value = grpc.StatusCode.DATA_LOSS, f"a file cannot be read: {error.strerror}", error.filename
        else:
            code = next(status for kind, status in STATUS if isinstance(error, kind))
            what, value = error.what + (f"; {error.rule}" if error.rule else ""), error.value
        if not isinstance(error, TooMuch) or value is not None:
            self._log("refused", peer=context.peer(), call=name, status=code.name, why=what, value=str(value))
        return await context.abort(code, what[:300])

    def _list(self, request: Message) -> Message:
        del request
        root = self._index.store
        if not (root / "store.json").is_file():  # the first round is not over
            return messages.Listing()
        now = channels.read(root)
        releases = (
            messages.Release(
                version=one.version,
                digest=one.digest,
                verdict=one.manifest.verdict,
                channels=now.pointing_at(one.version),
            )
            for one in self._index.releases()
        )
        return messages.Listing(releases=releases, generation=now.generation)

    def _manifest(self, request: Message) -> Message:
        request = cast(messages.ManifestRequest, request)
        _check(check_digest, request.digest)
        return messages.ManifestReply(manifest=self._index.manifest(request.digest))

    def _stat(self, request: Message) -> Message:
        request = cast(messages.StatRequest, request)
        _check(check_sha256, request.sha256)
        found = self._index.file(request.sha256)
        return messages.StatReply(sha256=found.sha256, size=found.size)

    def _base(self, request: Message) -> Message:
        request = cast(messages.BaseRequest, request)
        if request.digest:
            _check(check_sha256, request.digest)
        digest, files = self._index.base(request.digest)
        return messages.BaseReply(digest=digest, files=[_file(one) for one in files])

    async def _follow(self, request: Message) -> AsyncIterator[Message | None]:
        request = cast(messages.FollowRequest, request)
        if request.channel not in channels.CHANNELS:
            raise _WrongRequest("unknown channel", value=request.channel, rule=f"one of {', '.join(channels.CHANNELS)}")
        before: str | None = None
        while True:
            now = await asyncio.to_thread(channels.read, self._index.store)
            pointer = now.channels.get(request.channel)
            digest = pointer.digest if pointer is not None else ""
            if digest != before:
                version = pointer.version if pointer is not None else ""
                yield messages.Moved(version=version, digest=digest, generation=now.generation)
            else:
                yield None
            before = digest
            await asyncio.sleep(LOOK_S)

    async def _read(self, request: Message) -> AsyncIterator[Message]:
        request = cast(messages.ReadRequest, request)
        _check(check_sha256, request.sha256)
        found = await asyncio.to_thread(self._index.file, request.sha256)
        if request.offset > found.size:
            raise _NoSuchOffset("the offset is beyond the end", value=request.offset, rule=f"at most {found.size}")
        file = await asyncio.to_thread(_opened, found.path, request.offset)
        with file:
            while data := await asyncio.to_thread(file.read, READ_BYTES):
                for at in range(0, len(data), PIECE_BYTES):
                    yield messages.Piece(data=data[at : at + PIECE_BYTES])

    async def _contents(self, request: Message) -> AsyncIterator[Message]:
        del request
        files = await asyncio.to_thread(self._index.contents)
        for at in range(0, len(files), FILES_A_MESSAGE):
            yield messages.Files(files=[_file(one) for one in files[at : at + FILES_A_MESSAGE]])

    async def _pointers(self, request: Message) -> AsyncIterator[Message]:
        del request
        root = self._index.store
        found = await asyncio.to_thread(pointers_of, root) if (root / "store.json").is_file() else Pointers()
        log = found.log.encode()
        for at in range(0, len(log), PIECE_BYTES):
            yield messages.PointersPiece(log=log[at : at + PIECE_BYTES])
        yield messages.PointersPiece(channels=found.channels.encode())


def _check(rule: Callable[[str], str], given: str) -> None:
    """Refuse what has not the form that it should have, before it is looked for."""
    try:
        rule(given)
    except StoreError as error:
        raise _WrongRequest(error.what, value=given, rule=error.rule) from error


def _opened(path: Path, offset: int) -> BinaryIO:
    file = path.open("rb", buffering=0)
    file.seek(offset)
    return file


def _file(found: ServedFile) -> messages.File:
    return messages.File(name=found.name, sha256=found.sha256, size=found.size)
