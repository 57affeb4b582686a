"""``fedrelease site fetch`` and ``site follow``: bases and releases from the server's release service.

Example::

    fedrelease site fetch                                  # the base of the run, before the first round
    fedrelease site fetch stable --store releases
    fedrelease site follow stable --store releases         # on the machine that serves the model
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrelease.cli.options import AsJson, Quiet, stop_wanted
from fedrelease.cli.output import emit, emit_json, example, to_stderr
from fedrelease.cli.site import FOLDER, Folder, site
from fedrelease.wording import plain

if TYPE_CHECKING:
    from fedrelease.client.deployment.folder import SiteFolder
    from fedrelease.deployment.release_client import ReleaseClient

__all__ = ["fetch", "follow", "site"]  # `site` with these two verbs added

RELEASES = Path("releases")
StoreOption = Annotated[Path, typer.Option("--store", metavar="DIR", help="Folder of the copy; it is made if need be.")]
Wait = Annotated[
    float, typer.Option("--wait", metavar="SECONDS", help="Go on for so long without an answer from the server.", min=0)
]


@site.command(
    epilog=example(
        "fedrelease site fetch",
        "fedrelease site fetch stable --store releases",
        "fedrelease site fetch 0.1.2 --folder amazon",
    )
)
def fetch(
    ref: Annotated[
        str | None,
        typer.Argument(metavar="[REF]", help="A version, channel or digest; without it the base of the run."),
    ] = None,
    folder: Folder = FOLDER,
    store: StoreOption = RELEASES,
    wait: Wait = 60.0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fetch the base that the server trains on, or its releases. Interrupted, the same command goes on where it stopped.

    Every byte is compared with its digest, and releases with their signatures; then `fedrelease predict --store` reads them.
    """
    with _connected(folder, wait) as (opened, client):
        if ref is None:
            _fetch_base(opened, client, as_json=as_json, quiet=quiet)
        else:
            _fetch_release(opened, client, ref, store, as_json=as_json, quiet=quiet)


@site.command(
    epilog=example("fedrelease site follow stable --store releases", "fedrelease site follow canary --folder amazon")
)
def follow(
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="stable, beta, canary, candidate or anchor.")],
    folder: Folder = FOLDER,
    store: StoreOption = RELEASES,
    wait: Wait = 60.0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Keep a copy of the releases up to date until Ctrl-C or SIGTERM; whenever the channel moves, what is new is fetched."""
    from fedrelease.server.channels import check_channel

    check_channel(channel)
    moves, last = 0, ""
    with _connected(folder, wait) as (opened, client), stop_wanted() as stopped:
        for moved in client.follow(channel, until=stopped):
            if moved.digest:
                _mirrored(opened, client, store, quiet=True)
                moves, last = moves + 1, moved.digest
            if not quiet and not as_json:
                emit(
                    f"{channel} is {moved.version} {moved.digest}" if moved.digest else f"{channel} points nowhere yet"
                )
    if as_json:
        emit_json({"channel": channel, "store": str(store), "moves": moves, "digest": last or None})


@contextmanager
def _connected(folder: Path, wait: float) -> "Iterator[tuple[SiteFolder, ReleaseClient]]":
    """The site and its connection; one command at a time fetches into a site's folder."""
    from fedrelease.client.deployment.fetch import connect_releases, partial_folder
    from fedrelease.client.deployment.folder import open_site_folder
    from fedrelease.server.lock import hold

    opened = open_site_folder(folder)
    partial_folder(opened).mkdir(exist_ok=True)
    with hold(partial_folder(opened) / ".lock", of=folder), connect_releases(opened, patience_s=wait) as client:
        yield opened, client


def _fetch_base(opened: "SiteFolder", client: "ReleaseClient", *, as_json: bool, quiet: bool) -> None:
    from fedrelease.client.deployment.fetch import fetch_base

    with _shown(quiet) as progress:
        digest, where = fetch_base(client, opened, progress=progress)
    if as_json:
        emit_json({"base": digest, "folder": str(where)})
    else:
        emit(f"{where} holds the base {digest[:16]}; the site uses it from its next answer on")


def _fetch_release(
    opened: "SiteFolder", client: "ReleaseClient", ref: str, store: Path, *, as_json: bool, quiet: bool
) -> None:
    from fedrelease.server.store import Store

    size = _mirrored(opened, client, store, quiet=quiet)
    found = Store.open(store).find(ref)
    if as_json:
        emit_json({"version": found.version, "digest": found.digest, "store": str(store), "bytes": size})
    else:
        emit(f"{store} holds {found.version} {found.digest}; {size:,} bytes travelled")


def _mirrored(opened: "SiteFolder", client: "ReleaseClient", store: Path, *, quiet: bool) -> int:
    from fedrelease.client.deployment.fetch import partial_folder
    from fedrelease.server.deployment.mirror import mirror
    from fedrelease.server.keys import keys_folder

    with _shown(quiet) as progress:
        return mirror(client, store, partial=partial_folder(opened), home=keys_folder(), progress=progress).size


@contextmanager
def _shown(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar of bytes on a terminal; nothing elsewhere."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    talk = to_stderr()
    if quiet or not talk.is_terminal:
        yield None
        return
    with Progress(BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=talk, transient=True) as bar:
        task = bar.add_task(plain("fetch"))
        yield lambda done, total: bar.update(task, completed=done, total=total)
