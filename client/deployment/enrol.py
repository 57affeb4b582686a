"""Becoming a site: a private key is made here, and the server answers the invitation's token with a certificate for it.

Example::

    site = enrol(read_invitation(path), Path("amazon"))        # the folder is complete, or there is none
"""

import secrets
import ssl
from dataclasses import replace
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from fedrelease.client.deployment.agreed import note_agreed
from fedrelease.client.deployment.folder import SiteFolder, SiteSettings, site_toml
from fedrelease.deployment.bundle import bundle
from fedrelease.deployment.certificates import certificate_of, new_key, private_openssh, signing_request
from fedrelease.deployment.invitation import Invitation
from fedrelease.errors import IdentityError
from fedrelease.files import write_durably

__all__ = ["connect", "enrol", "refusal_of", "site_key"]

ANSWER_S = 30.0


def enrol(invitation: Invitation, folder: Path, *, settings: SiteSettings | None = None) -> SiteFolder:
    """Make a site's folder, and have its key admitted.

    The key is on disk before it is sent, so that an answer that is lost is asked for again with the same key.

    Raises:
        IdentityError: the folder holds a site, versions differ, or the server is not there or refuses.
    """
    chosen = replace(
        settings or SiteSettings(site=invitation.site, server=invitation.server),
        site=invitation.site,
        server=invitation.server,
        releases=invitation.releases,
        federation=invitation.federation,
        bundle=bundle().digest,
    )
    site = SiteFolder(folder=folder, settings=chosen)
    _check_new(site)
    _check_bundle(invitation)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(site.authority_file, invitation.authority.encode())
    if not site.key_file.exists():
        write_durably(site.key_file, private_openssh(new_key()), mode=0o600)
    certificate = _asked(site, invitation)
    if certificate_of(certificate).public_key() != site_key(site).public_key():
        raise IdentityError("the server's certificate is for another key", value=invitation.server)
    write_durably(site.certificate_file, certificate)
    write_durably(site.secret_file, secrets.token_hex(32).encode(), mode=0o600)
    note_agreed(site)
    write_durably(folder / "site.toml", site_toml(chosen).encode())
    return site


def site_key(site: SiteFolder) -> ec.EllipticCurvePrivateKey:
    """The site's private key.

    Raises:
        IdentityError: it cannot be read.
    """
    try:
        key = load_ssh_private_key(site.key_file.read_bytes(), None)
    except (OSError, ValueError) as error:  # no part of the file may be shown
        raise IdentityError("the site's key cannot be read", value=str(site.key_file)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError("the site's key is of another kind", value=type(key).__name__)
    return key


def connect(site: SiteFolder) -> httpx.Client:
    """A client that trusts the federation's authority and nobody else.

    Raises:
        IdentityError: the authority's certificate cannot be read.
    """
    try:
        trust = ssl.create_default_context(cafile=str(site.authority_file))
    except (OSError, ssl.SSLError) as error:
        raise IdentityError("the authority's certificate cannot be read", value=str(site.authority_file)) from error
    return httpx.Client(base_url=f"https://{site.settings.server}", verify=trust, timeout=ANSWER_S, trust_env=False)


def _check_new(site: SiteFolder) -> None:
    if (site.folder / "site.toml").exists():
        raise IdentityError(
            f"{site.folder} holds a site already",
            value=str(site.folder),
            rule="its key and its ledger are never made anew",
            hint="name another folder with --folder",
        )


def _check_bundle(invitation: Invitation) -> None:
    own = bundle().digest
    if invitation.bundle != own:
        raise IdentityError(
            "the server runs another version of fedrelease or Flower than this site",
            value=f"server: fedrelease {invitation.fedrelease}, app {invitation.bundle[:16]}; here: app {own[:16]}",
            rule="both sides make the same app, and no code travels",
            hint=f"install fedrelease {invitation.fedrelease} with its constraints.txt here",
        )


def _asked(site: SiteFolder, invitation: Invitation) -> bytes:
    request = signing_request(invitation.site, site_key(site)).decode("ascii")
    asked = {"site": invitation.site, "token": invitation.token, "request": request}
    try:
        with connect(site) as client:
            answer = client.post("/enrol", json=asked)
        if answer.status_code != 200:
            raise IdentityError(
                refusal_of(answer), value=invitation.server, hint="ask the operator for another invitation"
            )
        return str(answer.json()["certificate"]).encode()
    except httpx.HTTPError as error:
        raise IdentityError(
            f"the server cannot be reached: {error}",
            value=invitation.server,
            rule="an invitation is answered while `fedrelease server start` runs",
            hint="see whether a firewall is in the way, and run the same command again: the key that was made is kept",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise IdentityError("the server's answer is none of ours", value=invitation.server) from error


def refusal_of(answer: httpx.Response) -> str:
    """Why the gateway refuses, in its own words."""
    try:
        return f"the server refuses: {str(answer.json()['what'])[:200]}"
    except (ValueError, KeyError, TypeError):
        return f"the server refuses: {answer.status_code} {answer.text[:200]}"
