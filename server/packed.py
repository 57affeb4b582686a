"""Blobs of whole models in a small form: ``packed/sha256/<hex>``, named by what they decode to.

A file is one line of facts, then zstd of the bytes in planes (all first bytes of numbers, all second bytes ...), of what differs
from a keyframe where it has one. Rounds change numbers little: sign, exponent and leading digits are mostly those of the
keyframe, which may itself stand on another; whoever packs says how far that goes.

Example::

    pack(root, sha256, keyframe=None, width=4)             # the raw blob stays; what was written is decoded and compared
    whole(root, sha256)                                    # a file with the blob's bytes: itself, or decoded for this process
"""

import atexit
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO
from uuid import uuid4

import zstandard

from fedrelease import facts
from fedrelease.errors import DamagedRelease
from fedrelease.files import digest_file, sync_folder
from fedrelease.manifest import check_sha256
from fedrelease.server.blobs import blob_path, temporary_file
from fedrelease.server.byte_planes import difference, numbers, planes, restored, xored

__all__ = ["LEVEL", "PackedFacts", "content", "pack", "packed_facts", "packed_path", "whole"]

LEVEL = 9
ENCODINGS = ("difference", "xor")
PIECE = 1 << 22
"""Bytes that are turned at a time; a multiple of every width."""


@dataclass(frozen=True, kw_only=True)
class PackedFacts:
    """The first line of a packed blob.

    Attributes:
        encoding: ``difference`` of the numbers from those of the keyframe; ``xor`` of the bytes, as older ones were packed.
        keyframe: sha256 of the blob that they differ from; None: from none.
        payload: sha256 of what follows the line. size: bytes of the blob itself. width: bytes of one number, 1 to 8.
    """

    encoding: str
    keyframe: str | None
    payload: str
    size: int
    width: int

    def __post_init__(self) -> None:
        """Check bounds."""
        for sha256 in (self.payload, *([self.keyframe] if self.keyframe else [])):
            check_sha256(sha256)
        if not 1 <= self.width <= 8 or self.size < 0:
            raise DamagedRelease("no packed blob", value=self.width, rule="numbers have 1 to 8 bytes")
        if self.encoding not in ENCODINGS:
            raise DamagedRelease("unknown encoding", value=self.encoding, rule=f"it is {' or '.join(ENCODINGS)}")


@dataclass(frozen=True, kw_only=True)
class _OlderFacts:
    """The line of a store of layout 2, which knew one encoding."""

    keyframe: str | None
    payload: str
    size: int
    width: int


def packed_path(root: Path, sha256: str) -> Path:
    """Where the packed form of a blob lies, if there is one."""
    return root / "packed" / "sha256" / check_sha256(sha256)


def packed_facts(root: Path, sha256: str) -> PackedFacts:
    """What the first line says.

    Raises:
        DamagedRelease: missing or unreadable.
    """
    with _reading(root, sha256) as (told, _):
        return told


def pack(root: Path, sha256: str, *, keyframe: str | None, width: int) -> int:
    """Write the packed form of a blob and return its bytes on disk; the raw file stays. The caller holds the store's lock.

    Guarantees: the name appears only when every byte is on disk, and decodes to the blob when this returns.

    Raises:
        DamagedRelease: the blob or its keyframe is missing or damaged, or the packed file does not decode to the blob.
    """
    path, raw = packed_path(root, sha256), blob_path(root, sha256)
    if keyframe is not None:
        _check(root, keyframe)
    path.parent.mkdir(parents=True, exist_ok=True)
    sync_folder(root)
    with temporary_file(root) as payload, temporary_file(root) as temporary:
        with _against(root, keyframe) as frame, raw.open("rb") as source, payload.open("wb") as target:
            _compress(source, frame, target, width)
        told = PackedFacts(
            encoding="difference",
            keyframe=keyframe,
            payload=digest_file(payload),
            size=raw.stat().st_size,
            width=width,
        )
        _write(temporary, facts.to_bytes(told), payload)
        temporary.replace(path)
    sync_folder(path.parent)
    with temporary_file(root) as decoded:
        _decode(root, sha256, decoded)
    return path.stat().st_size


@contextmanager
def content(root: Path, sha256: str, *, packed: bool = False) -> Iterator[Path]:
    """A file with the bytes of a blob while the block runs: the raw one, unless ``packed`` asks for the other, or one decoded.

    Raises:
        DamagedRelease: the packed blob or its keyframe is missing, unreadable, or not what its name promises.
    """
    raw = blob_path(root, sha256)
    if not packed and (raw.is_file() or not packed_path(root, sha256).is_file()):
        yield raw
        return
    decoded = _room() / f"{sha256}.{uuid4().hex}"
    try:
        _decode(root, sha256, decoded)
        yield decoded
    finally:
        decoded.unlink(missing_ok=True)


def whole(root: Path, sha256: str) -> Path:
    """A file with the bytes of a blob: the raw one, or one in the system's temporary folder that lasts as long as this process.

    Raises:
        DamagedRelease: as :func:`content`.
    """
    raw = blob_path(root, sha256)
    if raw.is_file() or not packed_path(root, sha256).is_file():
        return raw
    standing = _room() / sha256
    if not standing.is_file():
        with content(root, sha256, packed=True) as decoded:
            decoded.replace(standing)
    return standing


_rooms: dict[int, Path] = {}


def _room() -> Path:
    """A folder of this process alone, which goes with it; a forked child gets its own."""
    process = os.getpid()
    if process not in _rooms or not _rooms[process].is_dir():
        _rooms[process] = Path(mkdtemp(prefix="fedrelease-"))
        atexit.register(_leave, process, _rooms[process])
    return _rooms[process]


def _leave(process: int, room: Path) -> None:
    if os.getpid() == process:
        shutil.rmtree(room, ignore_errors=True)


def _check(root: Path, keyframe: str) -> None:
    """Nothing may stand on a keyframe that is not what its name promises."""
    with _against(root, keyframe) as frame:
        if frame is None or hashlib.file_digest(frame, "sha256").hexdigest() != keyframe:
            where = f"blobs/sha256/{keyframe}"
            raise DamagedRelease(f"{where} does not have the bytes of its name", value=where)


@contextmanager
def _against(root: Path, keyframe: str | None) -> Iterator[BufferedReader | None]:
    if keyframe is None:
        yield None
        return
    try:
        file = _frame(root, keyframe)
    except OSError as error:
        where = f"blobs/sha256/{keyframe}"
        raise DamagedRelease(f"the keyframe {keyframe} cannot be read: {error.strerror}", value=where) from error
    with file:
        yield file


def _frame(root: Path, keyframe: str) -> BufferedReader:
    """Its bytes: raw, or decoded. The last one decoded stays, since who reads a store reads the next release next."""
    raw, kept = blob_path(root, keyframe), _room() / f"{keyframe}.frame"
    for path in (raw, _room() / keyframe, kept):
        with suppress(FileNotFoundError):
            return path.open("rb")
    if not packed_path(root, keyframe).is_file():
        return raw.open("rb")  # says what is missing
    with content(root, keyframe, packed=True) as decoded:
        file = decoded.open("rb")
        for other in _room().glob("*.frame"):
            other.unlink(missing_ok=True)
        decoded.replace(kept)
    return file


def _compress(source: BinaryIO, frame: BinaryIO | None, target: BinaryIO, width: int) -> None:
    encoder = zstandard.ZstdCompressor(level=LEVEL).compressobj()
    while piece := source.read(PIECE):
        target.write(encoder.compress(planes(difference(piece, _beside(piece, frame), width), width)))
    target.write(encoder.flush())


def _write(path: Path, line: bytes, payload: Path) -> None:
    with path.open("wb") as target, payload.open("rb") as source:
        target.write(line + b"\n")
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())
    path.chmod(0o444)


@contextmanager
def _reading(root: Path, sha256: str) -> Iterator[tuple[PackedFacts, BufferedReader]]:
    """The facts, and the file where its payload begins."""
    where = f"packed/sha256/{sha256}"
    try:
        file = packed_path(root, sha256).open("rb")
    except OSError as error:
        raise DamagedRelease(f"{where} cannot be read: {error.strerror}", value=where) from error
    with file:
        line = file.readline(1 << 12)
        if not line.endswith(b"\n"):
            raise DamagedRelease(f"{where} does not begin with its facts", value=where)
        try:
            yield _told(line[:-1]), file
        except zstandard.ZstdError as error:
            raise DamagedRelease(f"{where} cannot be decoded: {error}", value=where) from error


def _told(line: bytes) -> PackedFacts:
    if b'"encoding":' in line:
        return facts.from_bytes(PackedFacts, line)
    return PackedFacts(encoding="xor", **asdict(facts.from_bytes(_OlderFacts, line)))


def _decode(root: Path, sha256: str, target: Path) -> None:
    where = f"packed/sha256/{sha256}"
    with _reading(root, sha256) as (told, source):
        begin = source.tell()
        if hashlib.file_digest(source, "sha256").hexdigest() != told.payload:
            raise DamagedRelease(f"{where} does not have the bytes that were packed", value=where)
        source.seek(begin)
        with _against(root, told.keyframe) as frame:
            found = _expand(source, frame, target, told)
    if found != sha256:
        raise DamagedRelease(f"{where} does not decode to the bytes of its name", value=where)


def _expand(source: BinaryIO, frame: BinaryIO | None, target: Path, told: PackedFacts) -> str:
    """Write the blob and return the sha256 of what was written; never more than the facts promise."""
    seen, left = hashlib.sha256(), told.size
    reader = zstandard.ZstdDecompressor().stream_reader(source)
    with target.open("wb") as file:
        while left and (piece := _exactly(reader, min(PIECE, left))):
            mixed, other = numbers(piece, told.width), _beside(piece, frame)
            plain = xored(mixed, other) if told.encoding == "xor" else restored(mixed, other, told.width)
            seen.update(plain)
            file.write(plain)
            left -= len(piece)
    return seen.hexdigest()


def _exactly(reader: zstandard.ZstdDecompressionReader, size: int) -> bytes:
    """The next ``size`` bytes; fewer only at the end."""
    found = b""
    while len(found) < size and (more := reader.read(size - len(found))):
        found += more
    return found


def _beside(piece: bytes, frame: BinaryIO | None) -> bytes:
    """As many bytes of the keyframe; zeros beyond its end, from which nothing differs."""
    return (frame.read(len(piece)) if frame is not None else b"").ljust(len(piece), b"\0")
