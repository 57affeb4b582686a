"""What this machine knows of the stores that it has seen: whose keys it agreed to, and how far their channels had come.

One file for each store and folder below ``<keys folder>/stores``, out of reach of whoever can write to a store. Deleting it
forgets what was seen there: the next look is a first one again. A copy of a store in another folder goes its own way: it has the
keys of the first, and generations of its own.

Example::

    known = recall(home, store_id, Path("releases"))       # None: never seen there
    remember(home, replace(known, generation=7))
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedrelease import facts
from fedrelease.errors import DamagedRelease, SignatureError
from fedrelease.files import digest_bytes, write_durably
from fedrelease.manifest import check_sha256
from fedrelease.server.keys import PublicKey

__all__ = ["Known", "TrustedKey", "agreed_keys", "forget_hint", "known_here", "recall", "record_path", "remember"]

SHORT = 16


@dataclass(frozen=True, kw_only=True)
class TrustedKey:
    """A public key that this machine agreed to, and what it may sign there."""

    role: str
    pem: str

    @cached_property
    def key(self) -> PublicKey:
        """The key itself, read once."""
        return PublicKey(pem=self.pem)


@dataclass(frozen=True, kw_only=True)
class Known:
    """One store in one folder, as this machine saw it last.

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


def record_path(home: Path, store: str, folder: Path) -> Path:
    """Where the record of a store lies: the id and the folder's digest are its name."""
    return home / "stores" / f"{check_sha256(store)[:SHORT]}-{_short(folder)}.json"


def recall(home: Path, store: str, folder: Path) -> Known | None:
    """What this machine knows of a store in a folder; None where it never saw it.

    Raises:
        SignatureError: the record is damaged; the message says which file to delete.
    """
    known = _read(record_path(home, store, folder))
    return known if known is not None and known.store == store else None


def agreed_keys(home: Path, store: str, folder: Path) -> tuple[TrustedKey, ...] | None:
    """The keys that this machine agreed to: for the store in this folder, else for a copy of it elsewhere; None for neither."""
    here = recall(home, store, folder)
    found = (
        [here] if here is not None else [known for known in _named(home, f"{store[:SHORT]}-*") if known.store == store]
    )
    return found[0].keys if found else None


def known_here(home: Path, folder: Path) -> tuple[Known, ...]:
    """All stores that were seen in this folder; more than one where a store was deleted and made anew."""
    here = str(folder.resolve())
    return tuple(known for known in _named(home, f"*-{_short(folder)}") if known.folder == here)


def remember(home: Path, known: Known) -> None:
    """Write a record, durably; one that says the same already costs no write."""
    path = record_path(home, known.store, Path(known.folder))
    if _read(path) != known:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(path, facts.to_bytes(known), mode=0o600)


def forget_hint(home: Path, known: Known) -> str:
    """The way out when the user knows better."""
    return f"if that is as you want it, delete {record_path(home, known.store, Path(known.folder))}"


def _short(folder: Path) -> str:
    return digest_bytes(str(folder.resolve()).encode())[:SHORT]


def _named(home: Path, name: str) -> Iterator[Known]:
    found = (_read(path) for path in sorted((home / "stores").glob(f"{name}.json")))
    return (known for known in found if known is not None)


def _read(path: Path) -> Known | None:
    try:
        return facts.from_bytes(Known, path.read_bytes())
    except FileNotFoundError:
        return None
    except DamagedRelease as error:
        hint = "restore it, or delete it to look at that store as if for the first time"
        raise SignatureError("what this machine knows of a store is damaged", value=str(path), hint=hint) from error
