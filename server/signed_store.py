"""Which keys a store is signed with: ``keys/`` in the store, and what this machine agreed to.

::

    keys/store-<16 hex>.json         made when the store is first signed: its first keys, and the store's id (sha256 of it)
    keys/<role>-<16 hex>.pem         public keys, named by their fingerprints

Example::

    signed = signed_store(root)                            # None: nobody signs this store
    [trust.key.fingerprint for trust in trusted_keys(root, signed, home)]
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fedrelease import facts
from fedrelease.errors import DamagedRelease, FedreleaseError, SignatureError
from fedrelease.files import digest_bytes, sync_folder
from fedrelease.manifest import check_sha256
from fedrelease.server.blobs import replace_durably
from fedrelease.server.keys import KEY_ROLES, PublicKey, read_public
from fedrelease.server.trust import TrustedKey, agreed_keys

__all__ = [
    "SignedStore",
    "key_findings",
    "key_name",
    "new_root",
    "put_public",
    "put_root",
    "signed_store",
    "trusted_keys",
]

SHORT = 16
Finding: TypeAlias = tuple[str, str | None]


@dataclass(frozen=True, kw_only=True)
class SignedStore:
    """The content of ``keys/store-*.json``. ``release`` and ``channel`` are fingerprints; ``nonce`` makes it the only one."""

    release: str
    channel: str
    nonce: str

    def __post_init__(self) -> None:
        """Check bounds."""
        for text in (self.release, self.channel, self.nonce):
            check_sha256(text)

    @property
    def id(self) -> str:
        """Of the store: the sha256 of these facts."""
        return digest_bytes(facts.to_bytes(self))


def signed_store(root: Path) -> SignedStore | None:
    """What a store says about its keys; None when it says that nobody signs it.

    Raises:
        SignatureError: it says so twice, or the file is not the one that was made; ``value`` is its name.
    """
    found = sorted((root / "keys").glob("store-*.json"))
    if len(found) > 1:
        raise SignatureError("keys/ tells of several stores", value=f"keys/{found[1].name}", rule="a store has one id")
    return _read_root(found[0]) if found else None


def _read_root(path: Path) -> SignedStore:
    name = f"keys/{path.name}"
    try:
        signed = facts.from_bytes(SignedStore, path.read_bytes())
    except (OSError, DamagedRelease) as error:
        raise SignatureError("it is damaged", value=name, hint="restore it from a copy of the store") from error
    if path.name != _root_name(signed):
        raise SignatureError("its bytes are not those of its name", value=name, hint="restore it from a copy")
    return signed


def new_root(*, release: PublicKey, channel: PublicKey) -> SignedStore:
    """A new identity for a store that is about to be signed; nothing is written yet."""
    return SignedStore(release=release.fingerprint, channel=channel.fingerprint, nonce=secrets.token_hex(32))


def put_root(root: Path, signed: SignedStore, keys: tuple[TrustedKey, ...]) -> None:
    """Say that the store is signed from now on; the public keys come first, and everything is signed already."""
    for trust in keys:
        put_public(root, trust.role, trust.key)
    replace_durably(root, root / "keys" / _root_name(signed), facts.to_bytes(signed))


def put_public(root: Path, role: str, key: PublicKey) -> None:
    """Put a public key into the store's ``keys/``."""
    path = root / "keys" / key_name(role, key)
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        sync_folder(root)
        replace_durably(root, path, key.pem.encode())


def key_name(role: str, key: PublicKey) -> str:
    """What a public key's file is called."""
    return f"{role}-{key.fingerprint[:SHORT]}.pem"


def trusted_keys(root: Path, signed: SignedStore, home: Path | None) -> tuple[TrustedKey, ...]:
    """The keys that this machine agreed to; on first use those that the store was made with.

    ``home`` is the user's keys folder; None looks at the store alone.
    """
    agreed = agreed_keys(home, signed.id, root) if home is not None else None
    return agreed if agreed is not None else tuple(_first_keys(root, signed))


def _first_keys(root: Path, signed: SignedStore) -> Iterator[TrustedKey]:
    for role in KEY_ROLES:
        for path in sorted((root / "keys").glob(f"{role}-*.pem")):
            try:
                key = read_public(path)
            except SignatureError:
                continue  # key_findings names it
            if key.fingerprint == (signed.release if role == "release" else signed.channel):
                yield TrustedKey(role=role, pem=key.pem)


def key_findings(root: Path, signed: SignedStore, trusted: tuple[TrustedKey, ...]) -> Iterator[Finding]:
    """Every file in ``keys/`` and what is wrong with it, and what is missing there."""
    first = {f"release-{signed.release[:SHORT]}.pem", f"channel-{signed.channel[:SHORT]}.pem"}
    agreed = first | {key_name(trust.role, trust.key) for trust in trusted}
    yield f"keys/{_root_name(signed)}", None
    present = {path.name: path for path in sorted((root / "keys").iterdir()) if not path.name.startswith("store-")}
    for name in sorted(agreed - present.keys()):
        yield f"keys/{name}", "it is missing"
    for name, path in present.items():
        yield f"keys/{name}", _key_problem(path, agreed)


def _key_problem(path: Path, agreed: set[str]) -> str | None:
    role = path.name.partition("-")[0]
    try:
        key = read_public(path)
    except FedreleaseError as error:
        return error.what
    if role not in KEY_ROLES or path.name != key_name(role, key):
        return "its bytes are not those of its name"
    if path.name in agreed:
        return None
    way = f"if it is your partner's, `fedrelease keys trust {key.fingerprint[:SHORT]}`"
    return f"this machine has not agreed to that key, and believes nothing that it signed; {way}"


def _root_name(signed: SignedStore) -> str:
    return f"store-{signed.id[:SHORT]}.json"
