"""Keys: ECDSA on P-256, a private one for each role in the user's own folder, public ones in the stores that they sign.

Example::

    key = own_key(keys_folder(), "release")                # made on first use: release.pem, PKCS8, mode 0600
    key.public.fingerprint                                 # '6a9d002e...': the sha256 of the public key's PEM file
"""

import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final
from uuid import uuid4

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from fedrelease.errors import SignatureError
from fedrelease.files import digest_bytes, sync_folder

__all__ = ["KEY_ROLES", "PrivateKey", "PublicKey", "keys_folder", "make_key", "own_key", "read_private", "read_public"]

KEY_ROLES = ("channel", "release")
"""``release`` signs manifests, ``channel`` signs where channels point: whoever moves channels need not be able to release."""
_RULE = "a key is ECDSA on P-256 as PEM: PKCS8 for a private key, SubjectPublicKeyInfo for a public one"


@final
@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """A public key as the text of its PEM file, in the one form that it has."""

    pem: str

    def __post_init__(self) -> None:
        """Check that it is a key of ours.

        Raises:
            SignatureError: it is not.
        """
        if _public_pem(self._key) != self.pem:
            raise SignatureError("a public key is not in its usual form", rule=_RULE)

    @property
    def fingerprint(self) -> str:
        """The sha256 of the PEM file, 64 hexadecimal digits; what ``sha256sum`` says of it."""
        return digest_bytes(self.pem.encode())

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` (DER) is this key's over ``data``."""
        try:
            self._key.verify(signature, data, ec.ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True

    @cached_property
    def _key(self) -> ec.EllipticCurvePublicKey:
        try:
            key = load_pem_public_key(self.pem.encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise SignatureError("a public key cannot be read", rule=_RULE) from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise SignatureError("a public key is of another kind", value=type(key).__name__, rule=_RULE)
        return key


@final
class PrivateKey:
    """A private key. Nothing prints it: its text is its fingerprint."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        """Wrap it."""
        self._key = key
        self.public = PublicKey(pem=_public_pem(key.public_key()))

    def sign(self, data: bytes) -> bytes:
        """A signature in DER; ECDSA is randomised, so that each call gives another one."""
        return self._key.sign(data, ec.ECDSA(SHA256()))

    def pem(self) -> bytes:
        """The secret itself, for the file that keeps it."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def __repr__(self) -> str:
        """Which key it is, and nothing of the secret."""
        return f"PrivateKey({self.public.fingerprint})"


def make_key() -> PrivateKey:
    """A new private key, from the system's randomness."""
    return PrivateKey(ec.generate_private_key(ec.SECP256R1()))


def keys_folder() -> Path:
    """``FEDRELEASE_KEYS`` when it is set and not empty, else ``~/.config/fedrelease/keys``; it may not exist yet.

    Not below the cache: that may be deleted at any time.
    """
    named = os.environ.get("FEDRELEASE_KEYS", "")
    return Path(named).expanduser() if named else Path.home() / ".config" / "fedrelease" / "keys"


def own_key(folder: Path, role: str) -> PrivateKey:
    """The private key of a role in the user's folder; made on first use, mode 0600 in a folder of mode 0700.

    Raises:
        SignatureError: others may read the key or write to the folder, or the file holds no key of ours.
    """
    if role not in KEY_ROLES:
        raise SignatureError("unknown role of a key", value=role, rule=f"a role is one of {', '.join(KEY_ROLES)}")
    path = folder / f"{role}.pem"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _keep(path, make_key())
        return read_private(path)
    except OSError as error:
        hint = "set FEDRELEASE_KEYS to a folder that only you may read and that you may write"
        raise SignatureError(f"the keys cannot be used: {error.strerror}", value=str(path), hint=hint) from error


def read_private(path: Path) -> PrivateKey:
    """The private key in a file.

    Raises:
        SignatureError: somebody else may read it or put another one in its place, or it is no key of ours.
        OSError: it cannot be read.
    """
    _check_private(path, 0o077, "others may read or change it", f"chmod 600 {path}")
    _check_private(path.parent, 0o022, "others may put keys into its folder", f"chmod 700 {path.parent}")
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # no part of the file may be shown
        raise SignatureError("the file holds no private key of ours", value=str(path), rule=_RULE) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SignatureError("the private key is of another kind", value=str(path), rule=_RULE)
    return PrivateKey(key)


def read_public(path: Path) -> PublicKey:
    """The public key in a file.

    Raises:
        SignatureError: it is no key of ours, or cannot be read.
    """
    try:
        return PublicKey(pem=path.read_bytes().decode("ascii"))
    except OSError as error:
        raise SignatureError(f"a public key cannot be read: {error.strerror}", value=str(path)) from error
    except (SignatureError, UnicodeDecodeError) as error:
        raise SignatureError("it is no public key of ours", value=str(path), rule=_RULE) from error


def _public_pem(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def _check_private(path: Path, forbidden: int, why: str, hint: str) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & forbidden:
        raise SignatureError(
            f"a private key is not safe: {why}", value=f"{path} has mode {mode:04o}", rule="keys are 0600", hint=hint
        )


def _keep(path: Path, key: PrivateKey) -> None:
    """Write the key whole or not at all, never readable to others; a key that another process made meanwhile stays."""
    temporary = path.parent / f".{uuid4().hex}.tmp"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(key.pem())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
