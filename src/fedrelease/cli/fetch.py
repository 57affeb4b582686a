"""``fedrelease fetch``: bring bases and data sets onto this machine, each file checked against its pinned digest.

Example::

    fedrelease fetch --list
    fedrelease fetch minilm four-sites
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from fedrelease.cli.output import emit_json, put, table, to_stderr, to_stdout
from fedrelease.files import Json
from fedrelease.wording import amount, plain

if TYPE_CHECKING:
    from fedrelease.catalog import Entry
    from fedrelease.fetch import FetchProgress

__all__ = ["fetch"]


def fetch(
    aliases: Annotated[list[str] | None, typer.Argument(metavar="[ALIAS]...", hidden=True)] = None,
    listing: Annotated[bool, typer.Option("--list", help="List what can be fetched and what is here already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Fetch bases and data sets.

    ALIAS is what to fetch; without any, lists what there is. Everything goes into the cache (FEDRELEASE_CACHE, else
    ~/.cache/fedrelease), each file checked against its pinned digest. Nothing is installed and no fetched code runs.
    """
    if listing or not aliases:
        _list(as_json=as_json)
    else:
        _fetch(tuple(dict.fromkeys(aliases)), as_json=as_json)


def _list(*, as_json: bool) -> None:
    from fedrelease.cache import cache_folder
    from fedrelease.catalog import CATALOG
    from fedrelease.fetch import locate

    cache = cache_folder()
    rows = [(entry, locate(alias, cache)) for alias, entry in sorted(CATALOG.items())]
    if as_json:
        emit_json({"cache": str(cache), "catalog": [_described(entry, folder) for entry, folder in rows]})
        return
    lines = table("alias", "size>", "here", "what", "licence")
    for entry, folder in rows:
        lines.add_row(
            entry.alias, amount(_size(entry)), "yes" if folder else "no", Text(entry.what), Text(entry.licence)
        )
    put(to_stdout(), lines)


def _size(entry: "Entry") -> int:
    return sum(file.size_bytes for file in entry.files)


def _described(entry: "Entry", folder: Path | None) -> dict[str, Json]:
    return {
        "alias": entry.alias,
        "what": entry.what,
        "licence": entry.licence,
        "bytes": _size(entry),
        "digest": f"sha256:{entry.digest}",
        "path": None if folder is None else str(folder),
    }


def _fetch(aliases: Sequence[str], *, as_json: bool) -> None:
    from fedrelease.cache import cache_folder
    from fedrelease.catalog import entry_of
    from fedrelease.fetch import fetch_all

    with _listening(to_stderr()) as listen:
        folders = fetch_all(aliases, cache=cache_folder(), progress=listen)
    if as_json:
        emit_json({"fetched": [_described(entry_of(alias), folder) for alias, folder in folders.items()]})
        return
    lines = table("alias", "size>", "folder")
    for alias, folder in folders.items():
        lines.add_row(alias, amount(_size(entry_of(alias))), Text(str(folder)))
    put(to_stdout(), lines)


@contextmanager
def _listening(console: Console) -> Iterator[Callable[["FetchProgress"], None]]:
    """A listener that draws one bar an alias on a terminal, and prints one line a message elsewhere."""
    if not console.is_terminal:
        yield lambda event: _print_message(console, event)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}
        yield lambda event: _draw(bars, tasks, event)


def _print_message(console: Console, event: "FetchProgress") -> None:
    if event.step in ("falling back", "done"):
        console.print(plain(event.message))


def _draw(bars: Progress, tasks: dict[str, TaskID], event: "FetchProgress") -> None:
    if event.alias not in tasks:
        tasks[event.alias] = bars.add_task(event.alias, total=None)
    bars.update(
        tasks[event.alias],
        description=f"{event.alias}: {event.step}",
        completed=event.done_bytes,
        total=event.total_bytes or None,
    )
    _print_message(bars.console, event)
