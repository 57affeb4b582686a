"""Which keys there are around a store, and agreeing to one more: trust on first use, and by hand after that.

Example::

    [(key.fingerprint, key.trusted) for key in shown_keys(Path("releases"), keys_folder())]
    agree(Path("releases"), keys_folder(), "6a9d002ea17325ad")
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fedrelease.errors import SignatureError
from fedrelease.files import Json
from fedrelease.server.blobs import disk_errors
from fedrelease.server.keys import KEY_ROLES, own_key, read_public
from fedrelease.server.lock import hold
from fedrelease.server.signed_store import SignedStore, put_public, signed_store, trusted_keys
from fedrelease.server.signing import learn
from fedrelease.server.trust import TrustedKey, recall, remember

__all__ = ["ShownKey", "agree", "shown_keys"]

SHORTEST = 8


@dataclass(frozen=True, kw_only=True)
class ShownKey:
    """A public key: where it is (``yours``, ``store``), and whether this machine believes what it signs in this store."""

    role: str
    pem: str
    fingerprint: str
    where: tuple[str, ...]
    trusted: bool

    def document(self) -> dict[str, Json]:
        """What ``--json`` says of it."""
        return {
            "fingerprint": self.fingerprint,
            "role": self.role,
            "yours": "yours" in self.where,
            "in_store": "store" in self.where,
            "trusted": self.trusted,
        }


def shown_keys(store: Path, home: Path) -> tuple[ShownKey, ...]:
    """This machine's own keys, which are made when there are none, and those in the store if it is signed.

    Raises:
        SignatureError: a private key is not safe, or the store's word about its keys is damaged.
    """
    signed = signed_store(store)
    own = {TrustedKey(role=role, pem=own_key(home, role).public.pem) for role in KEY_ROLES}
    there, trusted = set(_in_store(store)), set(trusted_keys(store, signed, home)) if signed is not None else set()
    every = sorted(own | there | trusted, key=lambda key: (key.role, key.key.fingerprint))
    return tuple(
        ShownKey(
            role=key.role,
            pem=key.pem,
            fingerprint=key.key.fingerprint,
            where=tuple(name for name, keys in (("yours", own), ("store", there)) if key in keys) or ("remembered",),
            trusted=key in trusted,
        )
        for key in every
    )


def agree(store: Path, home: Path, fingerprint: str) -> ShownKey:
    """Believe, from now on and for this store, what a key signs; one's own key is put into the store's ``keys/`` too.

    Raises:
        SignatureError: the store is not signed, or not exactly one key there or of one's own begins with ``fingerprint``.
        StoreBusy: somebody writes to the store, and one's own key has to go there.
    """
    signed = signed_store(store)
    if signed is None:
        hint = "the first run that writes to it signs it with your keys"
        raise SignatureError("nobody signs this store", value=str(store), hint=hint)
    key = _only(shown_keys(store, home), fingerprint)
    if key.where == ("yours",):
        with hold(store / ".lock"), disk_errors(store):
            _put(store, key)
    _believe(store, signed, home, TrustedKey(role=key.role, pem=key.pem))
    return key


def _only(shown: tuple[ShownKey, ...], fingerprint: str) -> ShownKey:
    found = [key for key in shown if key.fingerprint.startswith(fingerprint)] if len(fingerprint) >= SHORTEST else []
    if len(found) != 1:
        there = ", ".join(key.fingerprint[:16] for key in shown)
        rule = f"at least {SHORTEST} digits of one key's fingerprint"
        raise SignatureError("no such key", value=fingerprint, rule=rule, hint=f"one of {there}")
    return found[0]


def _put(store: Path, key: ShownKey) -> None:
    put_public(store, key.role, TrustedKey(role=key.role, pem=key.pem).key)


def _believe(store: Path, signed: SignedStore, home: Path, key: TrustedKey) -> None:
    known = recall(home, signed.id, store)
    if known is None:
        learn(store, signed, home)
        known = recall(home, signed.id, store)
    if known is not None and key not in known.keys:
        remember(home, replace(known, keys=(*known.keys, key)))


def _in_store(store: Path) -> Iterator[TrustedKey]:
    for role in KEY_ROLES:
        for path in sorted((store / "keys").glob(f"{role}-*.pem")):
            yield TrustedKey(role=role, pem=read_public(path).pem)
