"""``fedrelease site``: what a partner does, from the invitation to a running site and its ledger.

Example::

    fedrelease site init amazon.invitation --data reviews.csv
    fedrelease site agree
    fedrelease site check
    fedrelease site start
    fedrelease site renew
    fedrelease site ledger
    fedrelease site policy
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedrelease.cache import cache_folder
from fedrelease.cli.options import AsJson, Quiet, stop_wanted
from fedrelease.cli.output import emit, emit_json, example, put, section, table, to_stderr, to_stdout
from fedrelease.cli.site_agree import agree
from fedrelease.cli.site_check import check
from fedrelease.errors import IdentityError
from fedrelease.files import Json
from fedrelease.wording import number

if TYPE_CHECKING:
    from fedrelease.client.deployment.folder import SiteFolder

__all__ = ["init", "ledger", "policy", "renew", "site", "start"]

FOLDER = Path("site")
Folder = Annotated[Path, typer.Option("--folder", metavar="DIR", help="Folder of the site.")]

site = typer.Typer(
    name="site",
    help="Take part in a federation: the partner's side.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@site.command(
    epilog=example(
        "fedrelease site init amazon.invitation --data reviews.csv --text review --label stars",
        "fedrelease site init amazon.invitation --folder amazon --wait 10",
    )
)
def init(
    invitation: Annotated[Path, typer.Argument(metavar="INVITATION", help="The file that the operator sent.")],
    folder: Folder = FOLDER,
    data: Annotated[str, typer.Option("--data", metavar="FILE", help="Your rows; site.toml can say it later.")] = "",
    text: Annotated[str, typer.Option("--text", metavar="COLUMN", help="The column of texts.")] = "text",
    label: Annotated[str, typer.Option("--label", metavar="COLUMN", help="The column of labels.")] = "label",
    port: Annotated[
        int, typer.Option("--port", metavar="N", help="Of this site's processes among themselves.", min=1, max=65535)
    ] = 9094,
    noise: Annotated[
        Literal["secure", "seeded"],
        typer.Option("--noise", help="seeded repeats and protects nobody: for demonstrations."),
    ] = "secure",
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", help="Try for so long while the server is away.", min=0)
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Become a site: a private key is made here and stays here, and the server admits its public half."""
    from fedrelease.client.deployment.enrol import enrol
    from fedrelease.client.deployment.folder import SiteSettings
    from fedrelease.deployment.invitation import read_invitation

    read = read_invitation(invitation)
    source = str(Path(data).expanduser().absolute()) if data else ""
    wished = SiteSettings(
        site=read.site, server=read.server, source=source, text=text, label=label, port=port, noise=noise
    )
    _until(time.monotonic() + wait, lambda: enrol(read, folder, settings=wished))
    if as_json:
        emit_json({"folder": str(folder), "site": read.site, "server": read.server})
        return
    emit(f"{folder} holds the site {read.site} of {read.federation}; its private key never leaves this machine")
    section(to_stdout(), "next", [])
    if not data:
        emit(f"  edit {folder / 'site.toml'}: say where your rows lie, and which columns")
    emit(f"  fedrelease site check{_where(folder)}")
    emit(f"  fedrelease site start{_where(folder)}")


def _until(end: float, act: Callable[[], object]) -> None:
    """Try again while the server cannot be reached, until a time on the monotonic clock."""
    while True:
        try:
            act()
            return
        except IdentityError as error:
            if not error.what.startswith("the server cannot be reached") or time.monotonic() > end:
                raise
            time.sleep(0.5)


site.command(epilog=example("fedrelease site agree", "fedrelease site agree --folder amazon --yes"))(agree)
site.command(epilog=example("fedrelease site check", "fedrelease site check reviews.toml --folder amazon"))(check)


@site.command(epilog=example("fedrelease site start", "fedrelease site start --folder amazon"))
def start(folder: Folder = FOLDER, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Take part until Ctrl-C or SIGTERM: answer what the server asks, within this site's own rules."""
    from fedrelease.client.deployment.folder import open_site_folder
    from fedrelease.client.deployment.start import run_site
    from fedrelease.server.lock import hold

    opened = open_site_folder(folder)
    if not quiet:
        talk = to_stderr()
        talk.print(
            f"{opened.settings.site} answers {opened.settings.server}; its log is {opened.log_folder / 'site.log'}"
        )
    with hold(folder / ".lock", of=folder), stop_wanted() as stopped:
        run_site(opened, until=stopped)
    if as_json:
        emit_json({"site": opened.settings.site, "stopped": True})


@site.command(epilog=example("fedrelease site renew", "fedrelease site renew --folder amazon --json"))
def renew(folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """Get a new certificate from the server, for the same key. `fedrelease site start` does so by itself in time."""
    from datetime import UTC, datetime

    from fedrelease.client.deployment.folder import open_site_folder
    from fedrelease.client.deployment.renewal import renew_certificate
    from fedrelease.deployment.certificates import days_left

    opened, now = open_site_folder(folder), datetime.now(UTC)
    made = renew_certificate(opened, now=now)
    expires, days = made.not_valid_after_utc.isoformat(), days_left(made, now)
    if as_json:
        emit_json(
            {
                "site": opened.settings.site,
                "certificate": str(opened.certificate_file),
                "expires": expires,
                "days": days,
            }
        )
        return
    emit(f"{opened.certificate_file} is for {opened.settings.site}, until {expires}: {days:.0f} days")


@site.command(epilog=example("fedrelease site ledger", "fedrelease site ledger --folder amazon --json"))
def ledger(folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """Show what privacy was spent on this site's rows, for whom and when; nobody can change or refund it."""
    from fedrelease.client.deployment.folder import open_site_folder
    from fedrelease.client.ledger import Ledger, total

    opened = open_site_folder(folder)
    entries = Ledger(opened.home / "ledger.jsonl").entries()
    rows: list[dict[str, Json]] = [
        {"federation": one.federation, "version": one.version, "pool": one.pool, "steps": one.steps, "delta": one.delta}
        for one in entries
    ]
    last = entries[-1] if entries else None
    spent = total(entries, delta=last.delta, accountant=last.accountant) if last else 0.0
    if as_json:
        emit_json(
            {"site": opened.settings.site, "epsilon": spent, "delta": last.delta if last else None, "charges": rows}
        )
        return
    shown = table("version", "federation", "rows of", "steps>")
    for row in rows:
        shown.add_row(str(row["version"]), str(row["federation"]), str(row["pool"]), str(row["steps"]))
    put(to_stdout(), shown)
    emit(f"epsilon {number(spent, 3)} at delta {last.delta:g}, over all of them" if last else "nothing was spent")


@site.command(
    epilog=example(
        "fedrelease site policy",
        "fedrelease site policy reviews.toml --folder amazon && echo accepted",
    )
)
def policy(
    experiment: Annotated[
        Path | None, typer.Argument(metavar="[EXPERIMENT]", help="Say whether this site would take part in it.")
    ] = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Show what a server may ask of this site, whatever its messages say; with an experiment, whether it keeps to that.

    Rules are changed in [policy] of site.toml, by you alone; `fedrelease site start` reads them when it starts. Exit 1: refused.
    """
    from dataclasses import asdict

    from fedrelease.client.deployment.folder import open_site_folder
    from fedrelease.client.policy_words import in_words

    opened = open_site_folder(folder)
    rules, pinned = opened.settings.policy, opened.pinned_base()
    refused = _refusal(opened, experiment) if experiment else ""
    if as_json:
        values: dict[str, Json] = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(rules).items()}
        facts: dict[str, Json] = {"site": opened.settings.site, "noise": opened.settings.noise, "base": pinned}
        emit_json(
            {**facts, "policy": values, "accepted": None if experiment is None else not refused, "refused": refused}
        )
    elif experiment is None:
        noise = (
            "from this machine's own randomness" if opened.settings.noise == "secure" else "REPEATS: it protects nobody"
        )
        section(
            to_stdout(),
            f"{opened.settings.site} lets a server ask for",
            [*in_words(rules, pinned=pinned), ("noise", noise)],
        )
    else:
        emit(f"refused: {refused}" if refused else f"{experiment} keeps to the rules of {opened.settings.site}")
    if refused:
        raise typer.Exit(1)


def _refusal(opened: "SiteFolder", path: Path) -> str:
    """Why the site would not take part in an experiment; its base's digest is known where the base is in the cache."""
    from fedrelease.client.policy import check_plan
    from fedrelease.errors import ModelError, PolicyRefused
    from fedrelease.experiment_file import load_experiment
    from fedrelease.models.bases import open_base

    asked = load_experiment(path)
    try:
        base = open_base(opened.settings.base or asked.model.base, cache=cache_folder()).digest
    except ModelError:
        base = None
    try:
        check_plan(opened.settings.policy, asked, base=base, pinned=opened.pinned_base())
    except PolicyRefused as error:
        return error.what
    return ""


def _where(folder: Path) -> str:
    return "" if folder == FOLDER else f" --folder {folder}"
