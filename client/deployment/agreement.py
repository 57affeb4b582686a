"""What a site agreed to run, what it has installed, and what the server starts: three apps that have to be one.

Example::

    found = agreement(site)
    found.agreed.digest, found.installed.digest, found.server           # None where the server does not answer
    agree(site)                                                          # site.toml names what is installed from now on

An app is known by a digest, which two installations of the same versions make alike.
"""

from dataclasses import dataclass, replace
from importlib.util import find_spec

import httpx

from fedrelease.client.deployment.agreed import App, agreed_app, installed_app, note_agreed
from fedrelease.client.deployment.enrol import connect
from fedrelease.client.deployment.folder import SETTINGS, SiteFolder
from fedrelease.deployment.bundle import CLIENT_APP, bundle
from fedrelease.deployment.settings import with_text
from fedrelease.errors import ExperimentError, IdentityError
from fedrelease.files import write_durably

__all__ = ["Agreement", "agree", "agreement"]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """``server`` is ``None`` where it does not answer. ``runs``: the file whose code a site runs."""

    agreed: App
    installed: App
    server: App | None
    runs: str

    @property
    def is_kept(self) -> bool:
        """Whether what is installed is what was agreed."""
        return self.agreed.digest == self.installed.digest

    @property
    def server_differs(self) -> bool:
        """Whether the server starts another app than the installed one: this site could not take part."""
        return self.server is not None and self.server.digest != self.installed.digest


def agreement(site: SiteFolder, *, patience_s: float = 10.0) -> Agreement:
    """How things stand; the server is asked, and nothing is changed."""
    return Agreement(agreed=agreed_app(site), installed=installed_app(), server=_server(site, patience_s), runs=_runs())


def _runs() -> str:
    """The file that a site runs; it is only looked for."""
    found = find_spec(CLIENT_APP.partition(":")[0])
    return found.origin if found is not None and found.origin is not None else CLIENT_APP


def agree(site: SiteFolder) -> SiteFolder:
    """Let ``site.toml`` name the installed app; the rest of the file stays, and the folder comes back with it.

    Raises:
        ExperimentError: the file cannot be read, or the key is written in a way that only a person can change.
    """
    path, digest = site.folder / SETTINGS, bundle().digest
    try:
        text = path.read_bytes().decode("utf-8")  # with its own ends of lines
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path} cannot be read: {error}", value=str(path), rule="it is TOML in UTF-8") from error
    changed = with_text(text, "bundle", digest, place=str(path)).encode()
    write_durably(path, changed, mode=path.stat().st_mode & 0o777)
    note_agreed(site)
    return replace(site, settings=replace(site.settings, bundle=digest))


def _server(site: SiteFolder, patience_s: float) -> App | None:
    try:
        with connect(site) as client:
            told = client.get("/health", timeout=patience_s).json()
        return App(
            digest=str(told["bundle"])[:64],
            fedrelease=str(told["fedrelease"])[:40],
            flower=str(told["flower"])[:40],
        )
    except (httpx.HTTPError, IdentityError, ValueError, KeyError, TypeError):
        return None
