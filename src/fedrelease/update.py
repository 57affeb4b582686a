"""What travels and what is released: a state, a site's update, and the receipt for its privacy.

Example::

    write_state(Path("update.safetensors"), {"head.weight": torch.zeros(2, 384)})
    tensors = StateFile(Path("update.safetensors"))      # reads a tensor when it is asked for
    tensors["head.weight"].shape
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Size, Tensor, dtype

from fedrelease.errors import UpdateRefused
from fedrelease.files import digest_bytes, write_durably
from fedrelease.privacy import Receipt

__all__ = [
    "State",
    "StateFile",
    "Update",
    "apart",
    "digest_and_size",
    "forget_open_files",
    "part_of",
    "read_state",
    "stacked_pieces",
    "state_bytes",
    "state_digest",
    "write_state",
]

State: TypeAlias = Mapping[str, Tensor]

HEAD_LENGTH = 8
"""Bytes of a safetensors file that tell how long its JSON is."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """One site's answer to one round.

    Attributes:
        site: the site's stable name.
        tensors: trained minus received, by canonical name; read lazily, so holding many updates costs nothing. Companions, by
            ``<kind>/<name>``, are there as the site sent them.
        examples: training rows behind it; ``None`` when the site's policy keeps the number private.
        metrics: what the site chose to tell; public once it is here.
        receipt: the privacy that the site spent on this answer; ``None`` without privacy.
        digest: sha256 of the update's file.
        size_bytes: of the update's file, or of the coded form in which it travelled.
    """

    site: str
    tensors: State
    examples: int | None
    metrics: Mapping[str, float]
    receipt: Receipt | None
    digest: str
    size_bytes: int


def apart(tensors: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of a state, and those that travel beside it: companions have a ``/`` in their names."""
    state = {name: tensor for name, tensor in tensors.items() if "/" not in name}
    return state, {name: tensor for name, tensor in tensors.items() if "/" in name}


@lru_cache(maxsize=16)
def _kept_open(path: str, identity: tuple[int, int, int]) -> Any:
    del identity
    return safe_open(path, framework="pt")


def forget_open_files() -> None:
    """Close the files that many updates share and that are kept open between reads: before a folder goes away."""
    _kept_open.cache_clear()


class StateFile(Mapping[str, Tensor]):
    """A safetensors file as a mapping that reads one tensor at a time and keeps none of them.

    With a ``row`` the file is one of :func:`stacked_pieces`, and the mapping is the state in that place.
    """

    def __init__(self, path: Path, row: int | None = None, names: Sequence[str] | None = None) -> None:
        """Read the names only; not even those when the caller, who has written the file, says ``names``.

        Raises:
            UpdateRefused: the file is missing, torn, or not safetensors.
        """
        self._path, self._row = path, row
        self._names = tuple(names) if names is not None else self._read_names()

    def _read_names(self) -> tuple[str, ...]:
        try:
            return tuple(sorted(self._open().keys()))
        except (SafetensorError, OSError) as error:
            what = f"{self._path.name} cannot be read as safetensors: {error}"
            raise UpdateRefused(what, value=str(self._path)) from error

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor from disk."""
        if name not in self._names:
            raise KeyError(name)
        file = self._open()
        tensor: Tensor = file.get_tensor(name) if self._row is None else file.get_slice(name)[self._row]
        return tensor

    def part(self, name: str, start: int, stop: int) -> Tensor:
        """Numbers ``start`` to ``stop`` of a tensor that is read flat; no more is read than the rows that they lie in."""
        found = self._open().get_slice(name)
        shape = found.get_shape()[0 if self._row is None else 1 :]
        if not shape or 0 in shape:
            return self[name].reshape(-1)[start:stop]
        wide = math.prod(shape[1:])
        first, last = start // wide, -(-stop // wide)
        rows: Tensor = found[first:last] if self._row is None else found[self._row, first:last]
        return rows.reshape(-1)[start - first * wide : stop - first * wide]

    def _open(self) -> Any:
        """A file of many updates is kept open."""
        if self._row is None:
            return safe_open(str(self._path), framework="pt")
        status = self._path.stat()
        return _kept_open(str(self._path), (status.st_ino, status.st_size, status.st_mtime_ns))

    def __iter__(self) -> Iterator[str]:
        """The names, sorted."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self._names)


def part_of(tensors: State, name: str, start: int, stop: int) -> Tensor:
    """Numbers ``start`` to ``stop`` of a tensor, flat; of a file no more is read than that, about."""
    return tensors.part(name, start, stop) if isinstance(tensors, StateFile) else tensors[name].reshape(-1)[start:stop]


def state_bytes(state: State) -> bytes:
    """The one byte form of a state: safetensors, names sorted, contiguous tensors, no metadata.

    Safetensors bytes are not deterministic with two or more metadata keys, so there are none.
    """
    return save({name: state[name].detach().contiguous() for name in sorted(state)})


def state_digest(state: State) -> str:
    """The sha256 of :func:`state_bytes`: equal exactly when names, shapes, dtypes and every bit are equal."""
    return digest_and_size(state)[0]


def digest_and_size(state: State) -> tuple[str, int]:
    """The sha256 and the length of :func:`state_bytes`, which are not formed: what has to be told of many small updates."""
    head, names, size = _layout(_kinds(state))
    found = hashlib.sha256(head)
    for name in names:
        found.update(_raw(state[name]))
    return found.hexdigest(), size


def stacked_pieces(states: Sequence[State]) -> Iterator[bytes | memoryview]:
    """One safetensors file with the tensors of all ``states`` stacked, ``[states, *shape]``, in pieces that follow each other.

    The states have the same names, shapes and dtypes. :class:`StateFile` reads one of them back by its ``row``.
    """
    head, names, _ = _layout(_kinds(states[0]), rows=len(states))
    yield head
    for name in names:
        yield from (_raw(state[name]) for state in states)


def _kinds(state: State) -> tuple[tuple[str, dtype, Size], ...]:
    return tuple((name, state[name].dtype, state[name].shape) for name in sorted(state))


@lru_cache(maxsize=64)
def _layout(kinds: tuple[tuple[str, dtype, Size], ...], rows: int | None = None) -> tuple[bytes, tuple[str, ...], int]:
    """What a safetensors file of such tensors begins with, its names in the order of their values, and its size."""
    stack = () if rows is None else (rows,)
    data = state_bytes({name: torch.empty((*stack, *shape), dtype=kind) for name, kind, shape in kinds})
    head = data[: HEAD_LENGTH + int.from_bytes(data[:HEAD_LENGTH], "little")]
    places = {name: facts["data_offsets"] for name, facts in json.loads(head[HEAD_LENGTH:]).items()}
    return head, tuple(sorted(places, key=lambda name: (*places[name], name))), len(data)


def _raw(tensor: Tensor) -> memoryview:
    """The values as they lie in memory, which is what safetensors writes."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def write_state(path: Path, state: State) -> str:
    """Write a state durably and return the sha256 of its bytes."""
    data = state_bytes(state)
    write_durably(path, data)
    return digest_bytes(data)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a whole state into memory.

    Raises:
        UpdateRefused: the file is missing, torn, or not safetensors.
    """
    try:
        state: dict[str, Tensor] = load(path.read_bytes())
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise UpdateRefused(f"{path.name} cannot be read as safetensors: {error}", value=str(path)) from error
    return state
