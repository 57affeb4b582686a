"""``channels.json``: named pointers to releases, moved together in one atomic replace.

Example::

    move(path, {"candidate": Pointer(version="0.1.2", digest="sha256:..."), "stable": ...})
    read(path).channels["stable"].version                  # '0.1.2'
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedrelease import facts
from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.files import digest_bytes, write_durably
from fedrelease.manifest import check_digest, parse_version

__all__ = ["CHANNELS", "Channels", "Pointer", "check_channel", "file_bytes", "move", "read"]

CHANNELS = ("anchor", "beta", "canary", "candidate", "stable")


def check_channel(name: str) -> None:
    """Refuse a name that is no channel.

    Raises:
        StoreError: the name is none of :data:`CHANNELS`.
    """
    if name not in CHANNELS:
        raise StoreError("unknown channel", value=name, rule=f"a channel is one of {', '.join(CHANNELS)}")


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """Where a channel points."""

    version: str
    digest: str

    def __post_init__(self) -> None:
        """Check bounds."""
        parse_version(self.version)
        check_digest(self.digest)


@dataclass(frozen=True, kw_only=True)
class Channels:
    """All pointers at one instant.

    Attributes:
        generation: rises by one with every move, so that a replayed old file can be told from a rollback.
        previous: sha256 of the file that this one replaced.
    """

    generation: int = 0
    previous: str | None = None
    channels: Mapping[str, Pointer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check bounds."""
        for name in self.channels:
            check_channel(name)

    def pointing_at(self, version: str) -> tuple[str, ...]:
        """The channels that point at a version, sorted."""
        return tuple(sorted(name for name, pointer in self.channels.items() if pointer.version == version))


def read(path: Path) -> Channels:
    """The pointers; generation 0 without any when nothing was ever moved.

    Raises:
        DamagedRelease: the file is not what :func:`move` writes.
    """
    data = file_bytes(path)
    if data is None:
        return Channels()
    try:
        return facts.from_bytes(Channels, data)
    except DamagedRelease as error:
        raise DamagedRelease(f"{path.name} is damaged: {error.what}", value=path.name, rule=error.rule) from error


def move(path: Path, targets: Mapping[str, Pointer], *, seal: Callable[[bytes], None] | None = None) -> Channels:
    """Point channels at releases, all of them or none; a move that changes nothing makes no new generation.

    The caller holds the store's lock. ``seal`` gets the new bytes before they are the file's.

    Raises:
        StoreError: a channel's name is unknown.
    """
    now = read(path)
    after = {**now.channels, **targets}
    if after == now.channels:
        return now
    data = file_bytes(path)
    moved = Channels(
        generation=now.generation + 1, previous=None if data is None else digest_bytes(data), channels=after
    )
    if seal is not None:
        seal(facts.to_bytes(moved))
    write_durably(path, facts.to_bytes(moved))
    return moved


def file_bytes(path: Path) -> bytes | None:
    """The bytes of the file as they are now; None before the first move.

    Raises:
        DamagedRelease: it is there and cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedRelease(f"{path.name} cannot be read: {error.strerror}", value=path.name) from error
