"""The calls of the release service with their types: what ``releases.proto`` says, for both sides.

Example::

    channel.unary_unary(LIST.path, request_serializer=LIST.request.SerializeToString, response_deserializer=LIST.reply.FromString)
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from fedrelease.deployment import releases_pb2 as messages

__all__ = [
    "BASE",
    "CALLS",
    "CONTENTS",
    "FOLLOW",
    "LIST",
    "MANIFEST",
    "MOST_BYTES",
    "PIECE_BYTES",
    "POINTERS",
    "READ",
    "SERVICE",
    "STAT",
    "Call",
]

SERVICE = "fedrelease.v1.Releases"
PIECE_BYTES = 1 << 18
"""Of a blob in one message: what a line that breaks all the time has to carry for a download to get on."""
MOST_BYTES = 4 << 20
"""Of one message, in either direction; what could be longer comes in pieces."""
Asked = TypeVar("Asked", bound=Message)
Told = TypeVar("Told", bound=Message)


@dataclass(frozen=True)
class Call(Generic[Asked, Told]):
    """One call: what is asked, and what is told, once or as a stream."""

    name: str
    request: type[Asked]
    reply: type[Told]
    streams: bool = False

    @property
    def path(self) -> str:
        """As gRPC names it."""
        return f"/{SERVICE}/{self.name}"


LIST = Call("List", messages.ListRequest, messages.Listing)
MANIFEST = Call("Manifest", messages.ManifestRequest, messages.ManifestReply)
FOLLOW = Call("Follow", messages.FollowRequest, messages.Moved, streams=True)
STAT = Call("Stat", messages.StatRequest, messages.StatReply)
READ = Call("Read", messages.ReadRequest, messages.Piece, streams=True)
BASE = Call("Base", messages.BaseRequest, messages.BaseReply)
CONTENTS = Call("Contents", messages.ContentsRequest, messages.Files, streams=True)
POINTERS = Call("Pointers", messages.PointersRequest, messages.PointersPiece, streams=True)
CALLS = (LIST, MANIFEST, FOLLOW, STAT, READ, BASE, CONTENTS, POINTERS)
