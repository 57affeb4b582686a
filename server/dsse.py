"""Signed envelopes: DSSE v1 with ECDSA P-256 and SHA-256.

Source: https://github.com/secure-systems-lab/dsse, protocol.md (what is signed) and envelope.md (the JSON).

Example::

    data = seal(b'{"_type":"https://in-toto.io/Statement/v1",...}', key)
    envelope = open_envelope(data)
    envelope.signed_by(key.public)                         # True
    envelope.content()                                     # the statement's bytes
"""

import base64
import binascii
from dataclasses import dataclass

from fedrelease import facts
from fedrelease.errors import DamagedRelease
from fedrelease.server.keys import PrivateKey, PublicKey

__all__ = ["IN_TOTO", "Envelope", "Signature", "open_envelope", "pre_authentication_encoding", "seal"]

IN_TOTO = "application/vnd.in-toto+json"


@dataclass(frozen=True, kw_only=True)
class Signature:
    """``sig`` in base64 is what ECDSA made, in DER; ``keyid`` is the fingerprint of the key, a hint that is not signed."""

    keyid: str
    sig: str


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """The JSON of envelope.md, whose names its fields have. ``payload`` is base64."""

    payload: str
    payloadType: str
    signatures: tuple[Signature, ...]

    def content(self) -> bytes:
        """The bytes that are signed, signed or not: ask :meth:`signed_by` before you believe them.

        Raises:
            DamagedRelease: the payload is not base64.
        """
        return _decoded(self.payload)

    def signed_by(self, key: PublicKey) -> bool:
        """Whether one of the signatures is this key's, over exactly this type and payload."""
        signed = pre_authentication_encoding(self.payloadType, self.content())
        return any(key.verifies(_decoded(signature.sig), signed) for signature in self.signatures)


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """What is signed: ``"DSSEv1" SP LEN(type) SP type SP LEN(payload) SP payload``, lengths in bytes (protocol.md, PAE)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload: bytes, key: PrivateKey, *, keyid: str | None = None) -> bytes:
    """The envelope of an in-toto statement as canonical JSON; ``keyid`` is the key's fingerprint unless another is asked for."""
    sig = key.sign(pre_authentication_encoding(IN_TOTO, payload))
    signature = Signature(
        keyid=key.public.fingerprint if keyid is None else keyid, sig=base64.b64encode(sig).decode("ascii")
    )
    return facts.to_bytes(
        Envelope(payload=base64.b64encode(payload).decode("ascii"), payloadType=IN_TOTO, signatures=(signature,))
    )


def open_envelope(data: bytes) -> Envelope:
    """The envelope behind bytes that :func:`seal` made; nothing is verified yet.

    Raises:
        DamagedRelease: not such bytes.
    """
    return facts.from_bytes(Envelope, data)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DamagedRelease(f"an envelope is not in base64: {error}") from error
