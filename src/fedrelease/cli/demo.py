"""``fedrelease demo``: whole deployments on this machine, with real processes.

Example::

    fedrelease demo deploy
    fedrelease demo deploy --compare
"""

from pathlib import Path
from typing import Annotated

import typer

from fedrelease.cli.options import AsJson, Settings
from fedrelease.cli.output import emit, emit_json, example, to_stderr
from fedrelease.wording import plain

__all__ = ["demo", "deploy"]

demo = typer.Typer(
    name="demo",
    help="Try a whole deployment on this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@demo.callback()
def _group() -> None:
    """Try a whole deployment on this machine."""


@demo.command(epilog=example("fedrelease demo deploy", "fedrelease demo deploy --compare --folder trial"))
def deploy(
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Where everything goes; new or empty.")
    ] = Path("demo-deploy"),
    settings: Settings = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="With seeded noise, and then simulate the same: both end with one digest.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start a server and four sites with their own keys over TLS, release three rounds, and stop them all.

    Each command that it runs is shown, ready to copy. The sites' rows are those of four-sites, one kind of text each.
    """
    from fedrelease.simulations.deployed import deploy as deployed

    talk = to_stderr()
    found = deployed(folder, overrides=settings or [], compare=compare, say=lambda line: talk.print(plain(line)))
    if as_json:
        emit_json({"store": str(found.store), "head": found.head, "head_digest": found.digest, "same": found.same})
        return
    emit(f"{found.head} {found.digest}")
    if found.same is not None:
        emit("the simulation ends with the same digest" if found.same else "the simulation ends with ANOTHER digest")
    if found.same is False:
        raise typer.Exit(1)
