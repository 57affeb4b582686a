"""What this machine knows of the stores that it has seen: whose keys it agreed to, and how far their channels had come.

One file for each store, ``<keys folder>/stores/<id>.json``, out of reach of whoever can write to a store. Deleting it forgets the
store: the next look is a first one again.

Example::

    known = recall(home, store_id)                         # None: never seen
    remember(home, replace(known, generation=7))
"""

from dataclasses import dataclass
from pathlib import Path

from fedrelease import facts
from fedrelease.errors import DamagedRelease, SignatureError
from fedrelease.files import write_durably
from fedrelease.manifest import check_sha256
from fedrelease.server.keys import PublicKey

__all__ = ["Known", "TrustedKey", "forget_hint", "known_here", "recall", "record_path", "remember"]


@dataclass(frozen=True, kw_only=True)
class TrustedKey:
    """A public key that this machine agreed to, and what it may sign there."""

    role: str
    pem: str

    @property
    def key(self) -> PublicKey:
        """The key itself."""
        return PublicKey(pem=self.pem)


@dataclass(frozen=True, kw_only=True)
class Known:
    """One store as this machine saw it last.

    Attributes:
        store: its id.
        folder: where it lay, as an absolute path.
        keys: those that it may be signed with.
        generation, channels: of ``channels.json``, and the sha256 of its bytes; 0 and None before the first move.
    """

    store: str
    folder: str
    keys: tuple[TrustedKey, ...]
    generation: int = 0
    channels: str | None = None


def record_path(home: Path, store: str) -> Path:
    """Where the record of a store lies."""
    return home / "stores" / f"{check_sha256(store)}.json"


def recall(home: Path, store: str) -> Known | None:
    """What this machine knows of a store; None for one that it never saw.

    Raises:
        SignatureError: the record is damaged; the message says which file to delete.
    """
    return _read(record_path(home, store))


def known_here(home: Path, folder: Path) -> tuple[Known, ...]:
    """All stores that were seen in this folder; more than one where a store was deleted and made anew."""
    records = [_read(path) for path in sorted((home / "stores").glob("*.json"))]
    here = str(folder.resolve())
    return tuple(known for known in records if known is not None and known.folder == here)


def remember(home: Path, known: Known) -> None:
    """Write a record, durably; one that says the same already costs no write."""
    if recall(home, known.store) != known:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(record_path(home, known.store), facts.to_bytes(known), mode=0o600)


def forget_hint(home: Path, known: Known) -> str:
    """The way out when the user knows better."""
    return f"if that is as you want it, delete {record_path(home, known.store)}"


def _read(path: Path) -> Known | None:
    try:
        return facts.from_bytes(Known, path.read_bytes())
    except FileNotFoundError:
        return None
    except DamagedRelease as error:
        hint = "restore it, or delete it to look at that store as if for the first time"
        raise SignatureError("what this machine knows of a store is damaged", value=str(path), hint=hint) from error
