"""Who asks, when a site signs a question: its key and its certificate are those of a site that is admitted now, and it asks once.

Example::

    askers = Askers(server)
    askers.asker(body, what="renew", now=now)              # Asker(site='amazon', ...), or IdentityError

A recording is of no use: a question is good for five minutes and once. The certificate may have ended a week ago, so that a site
that was away comes back without a new invitation; one that was dismissed does not, whatever its certificate says.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from fedrelease.deployment.certificates import certificate_of, names_of
from fedrelease.deployment.question import Question, is_signed, read_question
from fedrelease.errors import IdentityError
from fedrelease.server.deployment.folder import Server
from fedrelease.server.deployment.register import Admitted, admitted

__all__ = ["GRACE", "Asker", "Askers"]

GRACE = timedelta(days=7)
"""So long after its end a certificate is still good for one thing: to be renewed."""
FRESH = timedelta(minutes=5)
AGAIN = "ask the operator: fedrelease server invite SITE --again"


@dataclass(frozen=True, kw_only=True)
class Asker:
    """A site that is admitted, and the certificate that it showed, in PEM."""

    site: str
    key: str
    certificate: str


@final
class Askers:
    """Remembers, for as long as a question is good, which were asked. One thread at a time."""

    def __init__(self, server: Server) -> None:
        """Nobody has asked yet."""
        self._server = server
        self._heard: dict[str, datetime] = {}

    def asker(self, body: bytes, *, what: str, now: datetime) -> Asker:
        """Who asks for ``what``.

        Raises:
            IdentityError: it is no question, or another one, or not that of an admitted site; too old, or asked before; or its
                certificate is another one's, or ended too long ago.
        """
        question, signature, said = read_question(body)
        found = admitted(self._server).get(question.site)
        if found is None or not is_signed(said, signature, _key(found)):
            raise IdentityError("no admitted site has signed this", value=question.site[:60], hint=AGAIN)
        if question.what != what:
            raise IdentityError("another question was signed", value=question.what[:20], rule=what)
        self._check_certificate(question, found, now)
        self._check_first(question, now)
        return Asker(site=found.site, key=found.key, certificate=question.certificate)

    def _check_certificate(self, question: Question, found: Admitted, now: datetime) -> None:
        own = certificate_of(question.certificate.encode())
        if not self._is_ours(own) or names_of(own) != (found.site,) or own.public_key() != _key(found):
            rule = "this federation's authority signed it, for this site and this key"
            raise IdentityError("the certificate is not that of this site", value=found.site, rule=rule, hint=AGAIN)
        ends = own.not_valid_after_utc
        if now > ends + GRACE:
            rule = f"at most {GRACE.days} days ago"
            raise IdentityError("the certificate ended too long ago", value=ends.isoformat(), rule=rule, hint=AGAIN)

    def _is_ours(self, certificate: x509.Certificate) -> bool:
        authority = certificate_of(self._server.authority_file.read_bytes())
        try:
            certificate.verify_directly_issued_by(authority)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    def _check_first(self, question: Question, now: datetime) -> None:
        told = _time(question.time)
        if told is None or abs(now - told) > FRESH:
            hint = "set the site's clock by NTP: timedatectl set-ntp true"
            rule = f"asked within {FRESH.seconds // 60} minutes, by the server's clock"
            raise IdentityError("the question is too old", value=question.time[:40], rule=rule, hint=hint)
        self._heard = {nonce: until for nonce, until in self._heard.items() if until > now}
        if question.nonce in self._heard:
            raise IdentityError("this was asked before", value=question.site, rule="each question once")
        self._heard[question.nonce] = told + FRESH


def _key(found: Admitted) -> ec.EllipticCurvePublicKey:
    key = load_ssh_public_key(found.key.encode("ascii"))
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise IdentityError("the register has another kind of key", value=found.site)
    return key


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
