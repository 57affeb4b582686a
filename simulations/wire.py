"""Flower messages between the engine and its workers: JSON frames over a socket, tensors as safetensors files. No pickle.

Example::

    send(socket, {"kind": "train", "content": pack(message.content, folder)})
    content = unpack(receive(socket)["content"])
"""

import json
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors.numpy import load_file, save

from fedrelease.errors import EngineError
from fedrelease.files import Json
from fedrelease.server.arrays import array_of

__all__ = ["pack", "receive", "send", "unpack"]

LENGTH = struct.Struct(">Q")
LARGEST_FRAME = 1 << 30


def send(connection: socket.socket, frame: Mapping[str, Json]) -> None:
    """Send one JSON frame: eight bytes of length, then UTF-8."""
    data = json.dumps(frame).encode()
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> dict[str, Json] | None:
    """Wait for one frame; ``None`` when the other side is gone.

    Raises:
        EngineError: what came is no frame.
    """
    head = _exactly(connection, LENGTH.size)
    if head is None:
        return None
    (size,) = LENGTH.unpack(head)
    if size > LARGEST_FRAME:
        raise EngineError("a frame is too large", value=size, rule=f"at most {LARGEST_FRAME} bytes")
    data = _exactly(connection, size)
    return None if data is None else _frame(data)


def _frame(data: bytes) -> dict[str, Json]:
    try:
        frame = json.loads(data)
    except ValueError as error:
        raise EngineError("a frame is not JSON", value=data[:80], rule="a frame is one JSON object") from error
    if not isinstance(frame, dict):
        raise EngineError("a frame is not an object", value=data[:80], rule="a frame is one JSON object")
    return frame


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    pieces = bytearray()
    while len(pieces) < size:
        try:
            piece = connection.recv(min(size - len(pieces), 1 << 20))
        except ConnectionError:
            return None
        if not piece:
            return None
        pieces += piece
    return bytes(pieces)


def pack(content: RecordDict, folder: Path) -> dict[str, Json]:
    """The records of a message as JSON; each array record goes into a file in ``folder``, whose path takes its place."""
    return {
        "arrays": {name: str(_write_arrays(record, folder)) for name, record in content.array_records.items()},
        "metrics": {name: dict(record) for name, record in content.metric_records.items()},
        "configs": {name: _plain(dict(record)) for name, record in content.config_records.items()},
    }


def _plain(values: Mapping[str, object]) -> Json:
    for name, value in values.items():
        if isinstance(value, bytes):
            raise EngineError("the one-machine engine carries no bytes in a ConfigRecord", value=name)
    return dict(values)  # type: ignore[arg-type]  # a ConfigRecord holds plain values and lists of them


def _write_arrays(record: ArrayRecord, folder: Path) -> Path:
    """Write an array record as safetensors and return the file."""
    path = folder / f"{uuid4().hex}.safetensors"
    try:
        path.write_bytes(save({name: array.numpy() for name, array in record.items()}))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise EngineError(
            f"tensors cannot be handed over: {error.strerror}",
            value=str(folder),
            hint="free some space there, then run the same command again: it goes on where it stopped",
        ) from error
    return path


def unpack(packed: Json, *, consume: bool) -> RecordDict:
    """The message that :func:`pack` packed; ``consume`` removes the files, for who reads them last."""
    if not isinstance(packed, Mapping):
        raise EngineError("a worker sent something else than records", value=type(packed).__name__)
    records = RecordDict()
    for name, path in _mapping(packed["arrays"]).items():
        file = Path(str(path))
        records[name] = ArrayRecord({key: array_of(value) for key, value in load_file(str(file)).items()})
        if consume:
            file.unlink(missing_ok=True)
    for name, metrics in _mapping(packed["metrics"]).items():
        records[name] = MetricRecord(dict(_mapping(metrics)))  # type: ignore[arg-type]  # numbers came out of one
    for name, config in _mapping(packed["configs"]).items():
        records[name] = ConfigRecord(dict(_mapping(config)))  # type: ignore[arg-type]  # so did these
    return records


def _mapping(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, Mapping):
        raise EngineError("a worker sent something else than records", value=type(value).__name__)
    return value
