"""Who may take part: invitations that are open, and sites that were admitted, each with the key that is its identity.

Example::

    invitation = invite(server, "amazon", days=7, now=now)          # goes to the partner
    certificate = admit(server, site="amazon", token=token, request=request, now=now)
    certificate = renew_site(server, site="amazon", key=key, shown=certificate, now=now)     # for the same key
    admitted(server)["amazon"].key                                   # the public key; the private one is at the site
"""

import fcntl
import hmac
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from fedrelease.deployment.bundle import bundle
from fedrelease.deployment.certificates import certificate_of, public_line, request_key
from fedrelease.deployment.invitation import Invitation
from fedrelease.errors import IdentityError
from fedrelease.files import digest_bytes, write_durably
from fedrelease.server.deployment.folder import Server

__all__ = ["NAME", "Admitted", "admit", "admitted", "dismiss", "invite", "open_invitations", "renew_site"]

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,59}")


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """A site that belongs to the federation.

    Attributes:
        key: its public key, one line of OpenSSH's form.
        certificate: in PEM. since: when it was admitted, ISO 8601 in UTC.
    """

    site: str
    key: str
    certificate: str
    since: str

    @property
    def fingerprint(self) -> str:
        """The sha256 of the key's line."""
        return digest_bytes(self.key.encode())


@dataclass(frozen=True, kw_only=True)
class _Open:
    """An invitation as the server keeps it: the token only as its sha256."""

    site: str
    token_sha256: str
    expires: str
    used_by: str | None = None


def invite(server: Server, site: str, *, days: float, now: datetime, again: bool = False) -> Invitation:
    """A new invitation, in the place of an older one to the same site.

    Args:
        again: the site is admitted already and comes with a new key; the old one is good until then.

    Raises:
        IdentityError: the name could not be a file's, or the site is admitted already.
    """
    if NAME.fullmatch(site) is None:
        raise IdentityError(
            "a site cannot have this name",
            value=site,
            rule="at most 60 lower-case letters, digits, '-', '_' and '.', beginning with a letter or digit",
        )
    if not again and site in admitted(server):
        raise IdentityError(
            f"{site} is admitted already",
            value=site,
            rule="one site, one key",
            hint=f"if it lost its key: fedrelease server invite {site} --again",
        )
    token = secrets.token_urlsafe(32)
    expires = (now + timedelta(days=days)).isoformat(timespec="seconds")
    _write(_invitation_file(server, site), _Open(site=site, token_sha256=_sha256(token), expires=expires))
    return Invitation(
        federation=server.settings.name,
        site=site,
        server=_reached(server, server.settings.listen),
        releases=_reached(server, server.settings.releases),
        authority=server.authority_file.read_text(encoding="ascii"),
        token=token,
        expires=expires,
        bundle=bundle().digest,
    )


def admit(server: Server, *, site: str, token: str, request: bytes, now: datetime) -> str:
    """Admit a site with the key of its signing request, and return its certificate in PEM.

    The same token with the same key gets the same certificate again: an answer may have been lost on its way. With another key
    it is refused.

    Raises:
        IdentityError: no such invitation, wrong or expired or used token, or the request is not in order.
    """
    with _only_writer(server):
        return _admit(server, site=site, token=token, request=request, now=now)


def _admit(server: Server, *, site: str, token: str, request: bytes, now: datetime) -> str:
    found = _open_invitation(server, site)
    if found is None or not hmac.compare_digest(found.token_sha256, _sha256(token)):
        raise IdentityError(
            "no such invitation is open", value=site[:60], rule="site and token are those of an invitation"
        )
    key = public_line(request_key(request)).decode("ascii")
    own = digest_bytes(key.encode())
    if found.used_by not in (None, own):
        raise IdentityError("this invitation was used already", value=site, rule="one invitation, one key")
    known = admitted(server).get(site)
    if found.used_by == own and known is not None and known.key == key:
        return known.certificate
    if datetime.fromisoformat(found.expires) < now:
        raise IdentityError("this invitation has expired", value=found.expires, hint="ask for another")
    _write(_invitation_file(server, site), _Open(**{**asdict(found), "used_by": own}))  # first: no second key gets in
    certificate = server.authority().site_certificate(request, site, now=now).public_bytes(Encoding.PEM).decode("ascii")
    since = now.isoformat(timespec="seconds")
    _write(_site_file(server, site), Admitted(site=site, key=key, certificate=certificate, since=since))
    return certificate


def renew_site(server: Server, *, site: str, key: str, shown: str, now: datetime) -> str:
    """A new certificate in PEM for an admitted site's own key; :mod:`fedrelease.server.deployment.askers` checks who asks.

    A site that shows an older certificate than the register has gets that one: the answer to an earlier renewal was lost, and
    a recording of it makes nothing new.

    Raises:
        IdentityError: the site was dismissed or has another key by now, or the authority has expired.
    """
    with _only_writer(server):
        found = admitted(server).get(site)
        if found is None or found.key != key:
            raise IdentityError("no such site is admitted with this key", value=site)
        if certificate_of(found.certificate.encode()) != certificate_of(shown.encode()):
            return found.certificate
        made = _certificate_again(server, found, now)
        _write(_site_file(server, site), replace(found, certificate=made))
        return made


def _certificate_again(server: Server, found: Admitted, now: datetime) -> str:
    authority = server.authority()
    if (end := authority.certificate.not_valid_after_utc) < now:
        raise IdentityError("the authority has expired, and nobody would believe what it signs", value=end.isoformat())
    key = certificate_of(found.certificate.encode()).public_key()
    made = authority.site_certificate_again(key, found.site, now=now)  # type: ignore[arg-type]  # EC, as checked there
    return made.public_bytes(Encoding.PEM).decode("ascii")


def admitted(server: Server) -> Mapping[str, Admitted]:
    """All sites of the federation by name, sorted."""
    files = sorted((server.folder / "sites").glob("*.json"))
    found = (Admitted(**json.loads(path.read_bytes())) for path in files)
    return {one.site: one for one in found}


def dismiss(server: Server, site: str) -> Admitted:
    """Take a site's identity from it; its key is refused from the next request on.

    Raises:
        IdentityError: there is no such site.
    """
    with _only_writer(server):
        return _dismiss(server, site)


def _dismiss(server: Server, site: str) -> Admitted:
    found = admitted(server).get(site)
    if found is None:
        there = ", ".join(admitted(server)) or "none"
        raise IdentityError("no such site is admitted", value=site, rule=f"admitted are: {there}")
    _site_file(server, site).unlink()
    _invitation_file(server, site).unlink(missing_ok=True)
    return found


def open_invitations(server: Server) -> Mapping[str, str]:
    """When each unused invitation expires, by site."""
    found = (_Open(**json.loads(path.read_bytes())) for path in sorted((server.folder / "invitations").glob("*.json")))
    return {one.site: one.expires for one in found if one.used_by is None}


def _open_invitation(server: Server, site: str) -> _Open | None:
    if NAME.fullmatch(site) is None:  # before it becomes part of a path
        return None
    path = _invitation_file(server, site)
    return _Open(**json.loads(path.read_bytes())) if path.is_file() else None


def _reached(server: Server, listen: str) -> str:
    """The address that partners use: the first of the server's names, at the port it listens on."""
    return f"{server.settings.names[0]}:{listen.rpartition(':')[2]}"


@contextmanager
def _only_writer(server: Server) -> Iterator[None]:
    """Nobody else changes the register meanwhile: who is dismissed must not be written down again by a renewal under way."""
    with (server.folder / ".register.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sha256(token: str) -> str:
    return digest_bytes(token.encode())


def _site_file(server: Server, site: str) -> Path:
    return server.folder / "sites" / f"{site}.json"


def _invitation_file(server: Server, site: str) -> Path:
    return server.folder / "invitations" / f"{site}.json"


def _write(path: Path, facts: Admitted | _Open) -> None:
    write_durably(path, json.dumps(asdict(facts), indent=2).encode() + b"\n", mode=0o600)
