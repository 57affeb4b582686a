"""Preflight: the site's folder, its key, its certificate.

Example::

    list(check_identity(site, now=datetime.now(UTC)))
"""

import stat
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.x509 import Certificate

from fedrelease.client.deployment.check import Check, Checks, failed, guarded, passed, warned
from fedrelease.client.deployment.enrol import site_key
from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.deployment.certificates import certificate_of, days_left

__all__ = ["check_identity"]

SOON = timedelta(days=30)
GRACE_DAYS = 7
"""So long after its end the server still renews a certificate."""
RENEW = "fedrelease site renew"
AGAIN = "ask the operator: fedrelease server invite SITE --again"


def check_identity(site: SiteFolder, *, now: datetime) -> Checks:
    """Files and modes, then whether key, certificate and authority belong together, and for how long."""
    yield from guarded("files", lambda: _files(site))
    yield from guarded("certificate", lambda: _certificate(site, now))


def _files(site: SiteFolder) -> Checks:
    private = (site.key_file, site.secret_file)
    missing = [path.name for path in (*private, site.certificate_file, site.authority_file) if not path.is_file()]
    if missing:
        rule = "fedrelease site init makes them all"
        yield failed("files", f"{', '.join(missing)} missing in {site.folder}", rule=rule, hint=AGAIN)
        return
    found = [_mode(path) for path in private]
    yield from (one for one in found if one is not None)
    if not any(found):
        yield passed("files", f"key, certificate and authority in {site.folder}; only you may read the key")


def _mode(path: Path) -> Check | None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & 0o077:
        return None
    rule = "only its owner may read it: mode 0600"
    return failed("files", f"{path.name} has mode {mode:04o}", rule=rule, hint=f"chmod 600 {path}")


def _certificate(site: SiteFolder, now: datetime) -> Checks:
    own, authority = (certificate_of(path.read_bytes()) for path in (site.certificate_file, site.authority_file))
    if own.public_key() != site_key(site).public_key():
        rule = "site.pem is for the public half of site.key"
        yield failed("certificate", "it belongs to another key", rule=rule, hint=AGAIN)
        return
    try:
        own.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        rule = "it is signed by authority.pem, the only authority that this site trusts"
        yield failed("certificate", "another authority signed it", rule=rule, hint=AGAIN)
        return
    ends = min((own, authority), key=lambda one: one.not_valid_after_utc)
    yield _lasting(own.not_valid_before_utc, ends, now)


def _lasting(begins: datetime, ending: Certificate, now: datetime) -> Check:
    """Whether now is between the beginning and the end of what ends first."""
    ends, left = ending.not_valid_after_utc, days_left(ending, now)
    told, rule = f"valid until {ends:%Y-%m-%d}, {left:.0f} days left", "it is valid now, and for 30 days more"
    if now < begins:
        clock = "set this machine's clock: is it behind?"
        return failed("certificate", f"not valid before {begins:%Y-%m-%d %H:%M} UTC", rule=rule, hint=clock)
    if now >= ends:
        hint = f"within {GRACE_DAYS} days of its end: {RENEW}; later {AGAIN}"
        return failed("certificate", f"expired on {ends:%Y-%m-%d}", rule=rule, hint=hint)
    if now + SOON > ends:
        return warned("certificate", told, rule=rule, hint=RENEW)
    return passed("certificate", f"{told}, for this key, by the federation's authority")
