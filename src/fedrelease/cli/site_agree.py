"""``fedrelease site agree``: after an upgrade, look at what this site would run from now on, and agree to it.

Example::

    fedrelease site agree
    fedrelease site agree --folder amazon --yes
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrelease.cli.options import AsJson
from fedrelease.cli.output import emit, emit_json, section, to_stdout
from fedrelease.errors import ExperimentError

if TYPE_CHECKING:
    from fedrelease.client.deployment.agreed import App
    from fedrelease.client.deployment.agreement import Agreement

__all__ = ["agree"]

SHOWN = 16


def agree(
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Folder of the site.")] = Path("site"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Agree without being asked.")] = False,
    patience: Annotated[
        float, typer.Option("--patience", metavar="SECONDS", help="How long the server may take to answer.", min=0.1)
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Agree to the app that is installed here: `bundle` in site.toml, the one key that is written.

    A site runs no other app than the one it agreed to, so that an upgrade is looked at by a person. Without a terminal, and with
    --json, it asks nobody and needs --yes. Exit code 1 if you do not agree.
    """
    from fedrelease.client.deployment.agreement import agree as agreed
    from fedrelease.client.deployment.agreement import agreement
    from fedrelease.client.deployment.folder import open_site_folder
    from fedrelease.server.lock import is_held

    site = open_site_folder(folder)
    found = agreement(site, patience_s=patience)
    if not as_json:
        _show(found, site.settings.site)
    written = not found.is_kept and _wanted(yes=yes, may_ask=not as_json)
    if written:
        agreed(site)
    if as_json:
        emit_json({"site": site.settings.site, **asdict(found), "written": written})
    elif found.is_kept:
        emit(f"{site.settings.site} agreed to this already")
    elif written:
        emit(f"{folder / 'site.toml'} names it from now on")
        if is_held(folder / ".lock"):
            emit("the site that runs now takes it at its next start")
    if not (written or found.is_kept):
        raise typer.Exit(1)


def _wanted(*, yes: bool, may_ask: bool) -> bool:
    if yes:
        return True
    if not may_ask or not sys.stdin.isatty():
        raise ExperimentError(
            "nobody can be asked here, so nothing was agreed to",
            value="no --yes" if may_ask else "--json without --yes",
            rule="a person agrees to what a site runs",
            hint="run it in a terminal, or look at what it shows and add --yes",
        )
    return typer.confirm("Let the site run this?", default=False, err=True)


def _show(found: "Agreement", name: str) -> None:
    server = "it does not answer; `fedrelease site check` says why"
    if found.server is not None:
        server = _app(found.server) + (": ANOTHER ONE" if found.server_differs else ": the same")
    pairs = [
        ("agreed", _app(found.agreed)),
        ("installed here", _app(found.installed)),
        ("would run", found.runs),
        ("the server starts", server),
    ]
    section(to_stdout(), name, pairs)
    if found.server_differs and found.server is not None:
        emit(f"  with that server it can take part when fedrelease {found.server.fedrelease} is installed here")
    emit("")


def _app(one: "App") -> str:
    since = f", since {one.since}" if one.since else ""
    return f"app {one.digest[:SHOWN] or 'none'} (fedrelease {one.fedrelease}, Flower {one.flower}{since})"
