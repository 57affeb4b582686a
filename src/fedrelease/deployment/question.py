"""A question that a site signs whole: who asks, what, when, and with which certificate. Flower signs the time alone.

Example::

    body = signed_question(key, Question(what="renew", site="amazon", certificate=pem, time=now.isoformat(), nonce=new_nonce()))
    question, signature, said = read_question(body)       # nothing of it is believed yet
    is_signed(said, signature, public_key)                # True

Pure: who is admitted, and whether it was asked before, is the server's business.
"""

import binascii
import json
import secrets
from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass, fields

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from fedrelease.errors import IdentityError
from fedrelease.files import canonical_bytes

__all__ = ["Question", "is_signed", "new_nonce", "read_question", "signed_question"]

ABOUT = b"fedrelease: a site asks\n"
"""Before what is signed: the same key signs times for Flower, and neither shall pass for the other."""
_RULE = "a question has exactly what, site, certificate, time and nonce, all of them text, and a signature"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is signed.

    Attributes:
        what: is asked for, such as ``renew``.
        certificate: in PEM; that of the site, as it has it now.
        time: ISO 8601 in UTC. nonce: told once; both keep an answer from being had with an old recording.
    """

    what: str
    site: str
    certificate: str
    time: str
    nonce: str


def new_nonce() -> str:
    """A text that nobody used before."""
    return secrets.token_hex(16)


def signed_question(key: ec.EllipticCurvePrivateKey, question: Question) -> bytes:
    """The body of the request."""
    signature = key.sign(_said(question), ec.ECDSA(SHA256()))
    return json.dumps({**asdict(question), "signature": b64encode(signature).decode("ascii")}).encode()


def read_question(body: bytes) -> tuple[Question, bytes, bytes]:
    """What a stranger sent: the question, its signature, and the bytes that should be signed.

    Raises:
        IdentityError: it is no question.
    """
    try:
        found = json.loads(body)
        if set(found) != {"signature", *(field.name for field in fields(Question))}:
            raise ValueError("keys")
        if not all(isinstance(value, str) for value in found.values()):
            raise TypeError("values")
        signature = b64decode(found.pop("signature"), validate=True)
        question = Question(**found)
        return question, signature, _said(question)
    except (ValueError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise IdentityError("this is no question of a site", rule=_RULE) from error


def is_signed(said: bytes, signature: bytes, key: ec.EllipticCurvePublicKey) -> bool:
    """Whether the key's owner signed these bytes."""
    try:
        key.verify(signature, said, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def _said(question: Question) -> bytes:
    return ABOUT + canonical_bytes(asdict(question))
