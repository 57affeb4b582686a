"""A site's certificate is renewed by the site itself: same key, same name, no new invitation.

Example::

    renew_certificate(site, now=datetime.now(UTC))         # site.pem is a new one, and lasts two years
    Renewal(site, log).look()                              # `site start` does this again and again; it acts in time

The server knows the site by its key, which signs the question, and by the certificate that is about to end. The site knows the
server by TLS, and believes a new certificate only where its own authority signed it, for its own key and its own name.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import final

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from fedrelease.client.deployment.enrol import connect, refusal_of, site_key
from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.deployment.certificates import certificate_of, days_left, names_of
from fedrelease.deployment.logs import Log
from fedrelease.deployment.question import Question, new_nonce, signed_question
from fedrelease.errors import FedreleaseError, IdentityError
from fedrelease.files import write_durably

__all__ = ["Renewal", "asked", "own_certificate", "renew_certificate"]

ANSWER_S = 10.0
AGAIN_S = 3600.0
"""Between two looks at the certificate; a renewal that failed is tried again so soon."""


def own_certificate(site: SiteFolder) -> x509.Certificate:
    """The site's certificate as it is now.

    Raises:
        IdentityError: it cannot be read.
    """
    try:
        return certificate_of(site.certificate_file.read_bytes())
    except OSError as error:
        hint = "fedrelease site init INVITATION"
        raise IdentityError(
            "the site's certificate cannot be read", value=str(site.certificate_file), hint=hint
        ) from error


def renew_certificate(site: SiteFolder, *, now: datetime) -> x509.Certificate:
    """Ask for a new certificate, check it, and write it in one rename.

    Raises:
        IdentityError: the server is not there or refuses, or what it answers is no such certificate; nothing was written.
    """
    before = own_certificate(site)
    try:
        text = str(asked(site, "renew", now=now).json()["certificate"])
    except (ValueError, KeyError, TypeError) as error:
        raise IdentityError("the server's answer is none of ours", value=site.settings.server) from error
    made = certificate_of(text.encode())
    _check(site, before, made)
    write_durably(site.certificate_file, text.encode())
    return made


def asked(site: SiteFolder, what: str, *, now: datetime, patience_s: float = ANSWER_S) -> httpx.Response:
    """What the gateway answers to a question that this site signs.

    Raises:
        IdentityError: it is not there, or refuses.
    """
    question = Question(
        what=what,
        site=site.settings.site,
        certificate=own_certificate(site).public_bytes(Encoding.PEM).decode("ascii"),
        time=now.isoformat(timespec="milliseconds"),
        nonce=new_nonce(),
    )
    try:
        with connect(site) as client:
            answer = client.post(f"/{what}", content=signed_question(site_key(site), question), timeout=patience_s)
    except httpx.HTTPError as error:
        what_failed = f"the server cannot be reached: {error}"
        raise IdentityError(what_failed, value=site.settings.server, hint="fedrelease site check") from error
    if answer.status_code != httpx.codes.OK:
        raise IdentityError(refusal_of(answer), value=site.settings.server, hint=_hint(answer))
    return answer


def _hint(answer: httpx.Response) -> str:
    """What the server says to do; it is shown here only, and run by nobody."""
    try:
        return str(answer.json()["hint"])[:200]
    except (ValueError, KeyError, TypeError):
        return ""


def _check(site: SiteFolder, before: x509.Certificate, made: x509.Certificate) -> None:
    authority = certificate_of(site.authority_file.read_bytes())
    try:
        made.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise IdentityError("the new certificate is of another authority", value=site.settings.server) from error
    if made.public_key() != site_key(site).public_key() or names_of(made) != (site.settings.site,):
        raise IdentityError("the new certificate is for another key or another site", value=site.settings.server)
    if made.not_valid_after_utc < before.not_valid_after_utc:
        ends = made.not_valid_after_utc.isoformat()
        raise IdentityError("the server's certificate ends before the one that is here", value=ends)


@final
class Renewal:
    """Renews in time, while a site runs; what fails is tried again in an hour, and the site goes on meanwhile."""

    def __init__(self, site: SiteFolder, log: Log, *, clock: Callable[[], float] = time.monotonic) -> None:
        """The first look is at once."""
        self._site, self._log, self._clock = site, log, clock
        self._due = clock()

    def look(self) -> None:
        """Renew if few days are left and the last look is long enough ago."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + AGAIN_S
        try:
            self._renew()
        except (FedreleaseError, OSError) as error:
            why = error.what if isinstance(error, FedreleaseError) else type(error).__name__
            self._log("not-renewed", why=why, again_in_s=AGAIN_S)

    def _renew(self) -> None:
        now = datetime.now(UTC)
        left = days_left(own_certificate(self._site), now)
        if left >= self._site.settings.renew_days:
            return
        made = renew_certificate(self._site, now=now)
        self._log("renewed", days_before=left, expires=made.not_valid_after_utc.isoformat())
