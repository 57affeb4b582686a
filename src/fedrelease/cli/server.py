"""``fedrelease server``: what an operator does, from the first key to a running federation with partner sites.

Example::

    fedrelease server init --name reviews --address fed.example.org --listen 0.0.0.0
    fedrelease server invite amazon
    fedrelease server start reviews.toml
"""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrelease.cli.options import AsJson, Quiet, Settings, Track, stop_wanted
from fedrelease.cli.output import emit, emit_json, example, section, to_stderr, to_stdout
from fedrelease.cli.server_status import status
from fedrelease.cli.simulate import finish, load, plan, tracking_of
from fedrelease.errors import IdentityError
from fedrelease.experiment import Experiment
from fedrelease.wording import plain

if TYPE_CHECKING:
    from fedrelease.server.deployment.start import Plan
    from fedrelease.server.tracking.choice import Tracking

__all__ = ["dismiss", "init", "invite", "renew", "server", "start", "stop"]

FOLDER = Path("server")
Folder = Annotated[Path, typer.Option("--folder", metavar="DIR", help="Folder of the server.")]

server = typer.Typer(
    name="server",
    help="Run a federation with partner sites: the operator's side.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@server.command(
    epilog=example(
        "fedrelease server init --name reviews --address fed.example.org --listen 0.0.0.0",
        "fedrelease server init --folder trial --port 9600",
    )
)
def init(
    folder: Folder = FOLDER,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Of the federation.")] = "federation",
    address: Annotated[
        list[str] | None,
        typer.Option(
            "--address", metavar="HOST", help="A name or address that sites use; repeatable [default: 127.0.0.1]."
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option("--listen", metavar="HOST", help="What to listen on; 0.0.0.0 is every network of this machine."),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port", metavar="N", help="Where sites come in; the next two are used as well.", min=1, max=65533
        ),
    ] = 9443,
    as_json: AsJson = False,
) -> None:
    """Make a server's folder: authority, certificate, keys, settings. Nothing is started."""
    from fedrelease.server.deployment.folder import Settings as Written
    from fedrelease.server.deployment.folder import make_server

    names = tuple(address or ["127.0.0.1"])
    settings = Written(
        name=name, names=names, listen=f"{listen}:{port}", releases=f"{listen}:{port + 1}", superlink_port=port + 2
    )
    made = make_server(folder, settings=settings, now=datetime.now(UTC))
    if as_json:
        emit_json({"folder": str(folder), "name": name, "names": list(names), "listen": settings.listen})
        return
    emit(f"{folder} holds the server {name}, which sites reach at {names[0]}:{port}")
    if listen == "127.0.0.1" and any(one not in ("127.0.0.1", "localhost") for one in names):
        emit("note: it listens on this machine only; --listen 0.0.0.0 lets other machines in")
    emit(f"{made.folder / 'authority.key'} signs every identity: keep a copy where only you can read it")
    where = _where(folder)
    _next(f"fedrelease server invite SITE{where}", f"fedrelease server start EXPERIMENT.toml{where}")


@server.command(epilog=example("fedrelease server invite amazon", "fedrelease server invite amazon --again --days 2"))
def invite(
    site: Annotated[str, typer.Argument(metavar="SITE", help="The name that the site will have.")],
    folder: Folder = FOLDER,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write it [default: SITE.invitation].")
    ] = None,
    days: Annotated[
        float, typer.Option("--days", metavar="N", help="How long it is good for.", min=0.01, max=365)
    ] = 7.0,
    again: Annotated[bool, typer.Option("--again", help="The site is admitted already and lost its key.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write an invitation: a file for one site, good for one use. Whoever has it can become that site."""
    from fedrelease.deployment.invitation import invitation_text
    from fedrelease.files import write_durably
    from fedrelease.server.deployment.folder import open_server
    from fedrelease.server.deployment.register import invite as invited

    invitation = invited(open_server(folder), site, days=days, now=datetime.now(UTC), again=again)
    path = out or Path(f"{site}.invitation")
    write_durably(path, invitation_text(invitation), mode=0o600)
    if as_json:
        emit_json({"site": site, "file": str(path), "expires": invitation.expires})
        return
    emit(f"{path} is for {site}, until {invitation.expires}; send it by a way that you both trust")
    _next(f"fedrelease site init {path.name}     # at the site, while the server runs")


@server.command(epilog=example("fedrelease server dismiss amazon"))
def dismiss(
    site: Annotated[str, typer.Argument(metavar="SITE", help="Who shall not come in any more.")],
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Take a site's identity from it. What it contributed stays; `fedrelease retract` takes that out too."""
    from fedrelease.server.deployment.folder import open_server
    from fedrelease.server.deployment.register import dismiss as dismissed

    gone = dismissed(open_server(folder), site)
    if as_json:
        emit_json({"site": site, "fingerprint": gone.fingerprint})
        return
    emit(f"{site} is dismissed; its key {gone.fingerprint[:16]} is refused from now on")


@server.command(
    epilog=example(
        "fedrelease server start reviews.toml", "fedrelease server start reviews.toml --set federation.seed=8"
    )
)
def start(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="An experiment.")] = None,
    settings: Settings = None,
    folder: Folder = FOLDER,
    store: Annotated[
        Path | None, typer.Option("--store", metavar="DIR", help="Folder of releases [default: federation.store].")
    ] = None,
    track: Track = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run an experiment with the sites that were admitted; each round becomes a release.

    It ends when the plan is done. Ctrl-C and SIGTERM stop it; the same command goes on, in the middle of a round too.
    """
    from fedrelease.server.deployment.folder import open_server
    from fedrelease.server.deployment.start import serve
    from fedrelease.server.lock import hold
    from fedrelease.simulations.progress import watching

    experiment = load(file, settings or [], store)
    opened, talk = open_server(folder), to_stderr()
    tracking = tracking_of(track or opened.settings.track, talk)
    if not quiet:
        plan(experiment, talk, data=f"each site's own rows, {experiment.data.holdout:.0%} of them held out there")

    def say(line: str) -> None:
        if not quiet:
            talk.print(plain(line))

    begun = time.monotonic()
    os.environ.setdefault("FEDRELEASE_KEYS", str((folder / "keys").absolute()))
    with hold(folder / ".lock", of=folder), stop_wanted() as stopped, watching(talk, quiet=quiet) as watch:
        experiment, what = _prepared(experiment, say, tracking)
        resumed = what.store.exists()
        serve(opened, what, watch=watch, say=say, until=stopped)
    finish(experiment, what.store, seconds=time.monotonic() - begun, resumed=resumed, as_json=as_json)


def _prepared(experiment: Experiment, say: Callable[[str], None], tracking: "Tracking") -> tuple[Experiment, "Plan"]:
    """The experiment with everything decided here, and where its base is."""
    from fedrelease.cache import cache_folder
    from fedrelease.experiment_document import to_document
    from fedrelease.models.precision import chosen_precision
    from fedrelease.server.deployment.start import Plan
    from fedrelease.simulations.simulate import fetched_base

    experiment = replace(experiment, model=chosen_precision(experiment.model, cache_folder()))
    base = fetched_base(experiment, cache_folder(), say)
    document = json.dumps(to_document(experiment))
    flags = tuple(choice.anywhere() for choice in tracking.choices)
    return experiment, Plan(experiment=document, store=Path(experiment.federation.store), base=base.folder, track=flags)


server.command(epilog=example("fedrelease server status", "fedrelease server status --watch"))(status)


@server.command(epilog=example("fedrelease server stop"))
def stop(folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """Stop the server of a folder; the same start goes on where it stopped."""
    from fedrelease.server.lock import is_held

    path = folder / ".lock"
    number = path.read_text(encoding="ascii").strip() if path.exists() else ""
    if not number.isdigit() or not is_held(path):
        raise IdentityError("no server runs here", value=str(folder), hint="fedrelease server start EXPERIMENT.toml")
    os.kill(int(number), signal.SIGTERM)
    while is_held(path):
        time.sleep(0.2)
    if as_json:
        emit_json({"stopped": int(number)})
    else:
        emit(f"stopped (it was process {number})")


@server.command(epilog=example("fedrelease server renew", "fedrelease server renew --folder trial --json"))
def renew(folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """Make the server's certificate anew, for the names in server.toml. Sites notice nothing: the authority stays."""
    from fedrelease.server.deployment.folder import open_server
    from fedrelease.server.deployment.folder import renew as renewed
    from fedrelease.server.lock import is_held

    opened = open_server(folder)
    made = renewed(opened, now=datetime.now(UTC))
    expires, runs = made.not_valid_after_utc.isoformat(), is_held(folder / ".lock")
    if as_json:
        emit_json(
            {
                "certificate": str(opened.certificate_file),
                "names": list(opened.settings.names),
                "expires": expires,
                "running": runs,
            }
        )
        return
    emit(f"{opened.certificate_file} is for {', '.join(opened.settings.names)}, until {expires}")
    if runs:
        emit("the server that runs now takes it at its next start")
        _next(f"fedrelease server stop{_where(folder)}", f"fedrelease server start EXPERIMENT.toml{_where(folder)}")


def _where(folder: Path) -> str:
    return "" if folder == FOLDER else f" --folder {folder}"


def _next(*commands: str) -> None:
    section(to_stdout(), "next", [])
    for command in commands:
        emit(f"  {command}")
