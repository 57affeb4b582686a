"""Which app a site agreed to, and when: its digest stands in ``site.toml``, the versions behind it in ``agreed.jsonl``.

Example::

    note_agreed(site)                                      # what is installed now, in a line of its own
    agreed_app(site).fedrelease                            # '0.1.0'

Only ``site.toml`` decides; the lines beside it are for people, who cannot read a digest.
"""

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from fedrelease import __version__
from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.deployment.bundle import bundle, flower_version
from fedrelease.files import append_durably, read_lines

__all__ = ["App", "agreed_app", "installed_app", "note_agreed"]

UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class App:
    """An app by its digest, and the versions that make it; ``since`` is when the site agreed to it, where it did."""

    digest: str
    fedrelease: str = UNKNOWN
    flower: str = UNKNOWN
    since: str | None = None


def installed_app() -> App:
    """What this installation makes."""
    return App(digest=bundle().digest, fedrelease=__version__, flower=flower_version())


def note_agreed(site: SiteFolder) -> None:
    """Write down that the installed app was agreed to, with its versions."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    append_durably(_file(site), json.dumps(asdict(replace(installed_app(), since=now))).encode())


def agreed_app(site: SiteFolder) -> App:
    """The app that ``site.toml`` names, with its versions where they were written down."""
    for line in reversed(read_lines(_file(site))):
        try:
            found = json.loads(line)
            if found["digest"] == site.settings.bundle:
                return App(**found)
        except (ValueError, KeyError, TypeError):  # somebody wrote in it
            continue
    return App(digest=site.settings.bundle)


def _file(site: SiteFolder) -> Path:
    return site.folder / "agreed.jsonl"
