"""Preflight: is the federation's server there, is it the right one, and do clocks and versions agree? Asks for /health alone.

Example::

    list(check_network(site, patience_s=10))
"""

import socket
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata

import httpx

from fedrelease import __version__
from fedrelease.client.deployment.check import Check, Checks, failed, guarded, passed, warned
from fedrelease.client.deployment.enrol import connect
from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.deployment.bundle import bundle

__all__ = ["check_network", "clock_check"]

PATIENCE_S = 10.0
WARN_S, FAIL_S = 2.0, 10.0
AHEAD_S, BEHIND_S = 5.0, 305.0
"""What the SuperLink takes of a signed time. [Flower 1.41: ``SYSTEM_TIME_TOLERANCE`` and ``TIMESTAMP_TOLERANCE`` with it]"""
RULE = "the server answers here over TLS, with a certificate of its own authority"
UNVERIFIED_NAME = 62
"""OpenSSL's number for a certificate of another name. (64: of another address.)"""


def check_network(site: SiteFolder, *, patience_s: float = PATIENCE_S) -> Checks:
    """The way to the server; where it is there, clocks and versions too."""
    fault = _fault(site, patience_s)
    if fault is not None:
        yield fault
        return
    yield from guarded("network", lambda: _answer(site, patience_s))


def _fault(site: SiteFolder, patience_s: float) -> Check | None:
    """Why no connection over TLS comes about, from the lowest layer up."""
    host, _, port = site.settings.server.rpartition(":")

    def fault(found: str, hint: str) -> Check:
        return failed("network", f"{site.settings.server}: {found}", rule=RULE, hint=hint)

    try:
        trust = ssl.create_default_context(cafile=str(site.authority_file))
        with socket.create_connection((host, int(port)), timeout=patience_s) as way:
            trust.wrap_socket(way, server_hostname=host).close()
    except socket.gaierror:
        return fault(f"no machine is called {host}", "check server in site.toml, and this machine's DNS")
    except ConnectionRefusedError:
        return fault(
            "refused: nothing listens there",
            "ask the operator whether `fedrelease server start` runs, and on which port",
        )
    except TimeoutError:
        hint = "a firewall may drop it: this site needs to reach that one port, outwards"
        return fault(f"no answer within {patience_s:g} s", hint)
    except ssl.SSLCertVerificationError as error:
        return fault(*_untrusted(error, host))
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
            return fault(
                "something answers there without TLS", "check the port in site.toml; a proxy may be in the way"
            )
        return fault(f"TLS failed: {error.reason}", "a proxy may be in the way: it must pass TLS through unchanged")
    except ValueError:
        return fault("no address", "server in site.toml is host:port")
    except OSError as error:
        return fault(f"{error.strerror or type(error).__name__}", "check this machine's network")
    return None


def _untrusted(error: ssl.SSLCertVerificationError, host: str) -> tuple[str, str]:
    if error.verify_code in (UNVERIFIED_NAME, 64):
        hint = "use a name that the certificate has, or ask the operator to add this one: server init --address"
        return f"its certificate is for another name than {host}", hint
    if "expired" in error.verify_message:
        return "its certificate has expired", "see whether this machine's clock is ahead; if not, tell the operator"
    if "not yet valid" in error.verify_message:
        return "its certificate is not valid yet", "see whether this machine's clock is behind: timedatectl"
    hint = "somebody else answers there, or the server was made anew: ask the operator before you trust it"
    return f"its certificate is not of this federation's authority ({error.verify_message})", hint


def _answer(site: SiteFolder, patience_s: float) -> Checks:
    try:
        with connect(site) as client:
            before, begun = datetime.now(UTC), time.monotonic()
            answer = client.get("/health", timeout=patience_s)
            took_s = time.monotonic() - begun
        told = answer.json()
        there = datetime.fromisoformat(str(told["time"]))
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        found = f"{site.settings.server} answers, but not as a gateway of fedrelease: {type(error).__name__}"
        yield failed("network", found, rule=RULE, hint="check the port in site.toml")
        return
    if answer.status_code == httpx.codes.OK:
        yield passed("network", f"{site.settings.server} answers over TLS in {1000 * took_s:.0f} ms")
    else:
        found = f"{site.settings.server} answers, but the SuperLink behind it does not ({answer.status_code})"
        hint = "wait a minute; then ask the operator: fedrelease server status"
        yield failed("network", found, rule="both run", hint=hint)
    yield clock_check((before - there).total_seconds() + took_s / 2, doubt_s=took_s / 2)
    yield from _versions(site, told)


def clock_check(ahead_s: float, *, doubt_s: float) -> Check:
    """How far this machine's clock is ahead of the server's (behind: below zero), known to ``doubt_s``."""
    found = f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} the server's (known to {doubt_s:.1f} s)"
    limits = f"a site whose clock is {AHEAD_S:g} s ahead, or {BEHIND_S:g} s behind, is refused by the SuperLink"
    hint = "set the clock by NTP: timedatectl set-ntp true"
    if abs(ahead_s) > FAIL_S or ahead_s >= AHEAD_S:
        return failed("clock", found, rule=limits, hint=hint)
    if abs(ahead_s) > WARN_S + doubt_s:
        return warned("clock", found, rule=f"at most {WARN_S:g} s either way; {limits}", hint=hint)
    return passed("clock", found)


def _versions(site: SiteFolder, told: Mapping[str, object]) -> Checks:
    flower, own = metadata.version("flwr"), bundle().digest
    here = f"fedrelease {__version__}, Flower {flower}"
    there = f"fedrelease {told.get('fedrelease')}, Flower {told.get('flower', 'unknown')}"
    if not own == told.get("bundle") == site.settings.bundle:
        agreed = site.settings.bundle[:16] or "none"
        found = f"here {here} (app {own[:16]}); server {there} (app {str(told.get('bundle'))[:16]}); agreed: {agreed}"
        rule = "both make the same app, which the invitation named: no code travels"
        hint = (
            "fedrelease site agree"
            if own == told.get("bundle")
            else f"install fedrelease {told.get('fedrelease')} with its constraints.txt here, then: fedrelease site agree"
        )
        yield failed("versions", found, rule=rule, hint=hint)
        return
    yield passed("versions", f"{here}, the same app as the server's ({own[:16]})")
