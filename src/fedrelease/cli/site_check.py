"""``fedrelease site check``: one line for each check as soon as it is done, with the rule and the way out where it fails.

Example::

    fedrelease site check reviews.toml
"""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from fedrelease.cli.options import AsJson, Settings
from fedrelease.cli.output import emit_json, to_stdout
from fedrelease.cli.simulate import load
from fedrelease.wording import plain

if TYPE_CHECKING:
    from fedrelease.client.deployment.check import Check

__all__ = ["check"]

STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}


def check(
    file: Annotated[
        str | None, typer.Argument(metavar="[EXPERIMENT]", help="The operator's experiment, for its base and labels.")
    ] = None,
    settings: Settings = None,
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Folder of the site.")] = Path("site"),
    patience: Annotated[
        float, typer.Option("--patience", metavar="SECONDS", help="How long the server may take to answer.", min=0.1)
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    """See whether this site can take part: keys, network, clock, versions, policy, base, rows, memory, disk, one private step.

    The policy is compared with what the server is about to ask, and with EXPERIMENT if you name one. Nothing is charged to the
    ledger; the server is asked for its /health and its plan, and is told nothing but who asks. Exit code 1 if any check fails.
    """
    from fedrelease.client.deployment.folder import open_site_folder
    from fedrelease.client.deployment.preflight import preflight

    site = open_site_folder(folder)
    experiment = load(file, settings or [], None)
    checks = preflight(site, experiment, named=file is not None, now=datetime.now(UTC), patience_s=patience)
    done = list(checks) if as_json else _shown(checks)
    ok = all(one.status != "fail" for one in done)
    if as_json:
        emit_json({"ok": ok, "site": site.settings.site, "checks": [asdict(one) for one in done]})
    else:
        _sum_up(done)
    if not ok:
        raise typer.Exit(1)


def _shown(checks: Iterable["Check"]) -> list["Check"]:
    console, done = to_stdout(), []
    for one in checks:
        console.print(Text(one.status, style=STYLES[one.status]) + Text(f"  {one.name:<12}{plain(one.found)}"))
        for name, text in (("rule:", one.rule), ("try:", one.hint)):
            if text:
                console.print(Text(f"{'':18}{name:<6}{plain(text)}", style="dim"))
        done.append(one)
    return done


def _sum_up(done: list["Check"]) -> None:
    bad, odd = (sum(one.status == status for one in done) for status in ("fail", "warn"))
    console = to_stdout()
    console.print()
    if bad:
        console.print(f"{bad} of {len(done)} checks failed; mend them, then run this again")
    else:
        console.print(f"ready{f', with {odd} warnings' if odd else ''}: fedrelease site start")
