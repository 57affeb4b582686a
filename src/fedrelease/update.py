"""What travels and what is released: a state, a site's update, and the receipt for its privacy.

Example::

    write_state(Path("update.safetensors"), {"head.weight": torch.zeros(2, 384)})
    tensors = StateFile(Path("update.safetensors"))      # reads a tensor when it is asked for
    tensors["head.weight"].shape
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from fedrelease.errors import UpdateRefused
from fedrelease.files import digest_bytes, write_durably
from fedrelease.privacy import Receipt

__all__ = [
    "State",
    "StateFile",
    "Update",
    "forget_open_files",
    "read_state",
    "state_bytes",
    "state_digest",
    "write_state",
]

State: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Update:
    """One site's answer to one round.

    Attributes:
        site: the site's stable name.
        tensors: trained minus received, by canonical name; read lazily, so holding many updates costs nothing.
        examples: training rows behind it; ``None`` when the site's policy keeps the number private.
        metrics: what the site chose to tell; public once it is here.
        receipt: the privacy that the site spent on this answer; ``None`` without privacy.
        digest: sha256 of the update's file.
        size_bytes: of the update's file.
    """

    site: str
    tensors: State
    examples: int | None
    metrics: Mapping[str, float]
    receipt: Receipt | None
    digest: str
    size_bytes: int


@lru_cache(maxsize=16)
def _kept_open(path: str, identity: tuple[int, int, int]) -> Any:
    del identity
    return safe_open(path, framework="pt")


def forget_open_files() -> None:
    """Close the files that many updates share and that are kept open between reads: before a folder goes away."""
    _kept_open.cache_clear()


class StateFile(Mapping[str, Tensor]):
    """A safetensors file as a mapping that reads one tensor at a time and keeps none of them.

    With a ``prefix`` only the tensors whose names begin with it, by the rest of their names: one file may hold many updates.
    """

    def __init__(self, path: Path, prefix: str = "", names: Sequence[str] | None = None) -> None:
        """Read the names only; not even those when the caller, who has written the file, says ``names``.

        Raises:
            UpdateRefused: the file is missing, torn, or not safetensors.
        """
        self._path, self._prefix = path, prefix
        self._names = tuple(names) if names is not None else self._read_names()

    def _read_names(self) -> tuple[str, ...]:
        try:
            names = sorted(self._open().keys())
        except (SafetensorError, OSError) as error:
            what = f"{self._path.name} cannot be read as safetensors: {error}"
            raise UpdateRefused(what, value=str(self._path)) from error
        return tuple(name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix))

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor from disk."""
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._open().get_tensor(self._prefix + name)
        return tensor

    def _open(self) -> Any:
        """A file of many updates is kept open: opening it reads the names of all of them."""
        if not self._prefix:
            return safe_open(str(self._path), framework="pt")
        status = self._path.stat()
        return _kept_open(str(self._path), (status.st_ino, status.st_size, status.st_mtime_ns))

    def __iter__(self) -> Iterator[str]:
        """The names, sorted."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self._names)


def state_bytes(state: State) -> bytes:
    """The one byte form of a state: safetensors, names sorted, contiguous tensors, no metadata.

    Safetensors bytes are not deterministic with two or more metadata keys, so there are none.
    """
    return save({name: state[name].detach().contiguous() for name in sorted(state)})


def state_digest(state: State) -> str:
    """The sha256 of :func:`state_bytes`: equal exactly when names, shapes, dtypes and every bit are equal."""
    return digest_bytes(state_bytes(state))


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
