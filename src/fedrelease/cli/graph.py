"""``log --graph``: the line of releases as a tree, newest first, with what was done to channels between them.

Example::

    print_graph(store, to_stdout())

::

    *    0.1.3  pilot  round 3  released  [candidate, stable]
    |    rollback  stable: to 0.1.1  ada: complaints from site B
    | x  0.1.2  pilot  round 2  held: quality against stable 0.1.1: -10.0 points ...
    |/
    *    0.1.1  pilot  round 1  released
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from fedrelease.cli.views import moment, why
from fedrelease.manifest import version_key
from fedrelease.server.channels import Channels
from fedrelease.server.journal import RELEASES, LogEntry
from fedrelease.server.release import Release
from fedrelease.server.store import Store
from fedrelease.wording import plain

__all__ = ["graph_lines", "print_graph"]


@dataclass(frozen=True, kw_only=True)
class _Marks:
    """What the tree is drawn with."""

    released: str
    held: str
    line: str
    turn: str
    across: str


ASCII = _Marks(released="*", held="x", line="|", turn="/", across="_")
DRAWN = _Marks(released="●", held="○", line="│", turn="╯", across="─")


def print_graph(store: Store, console: Console) -> None:
    """Print the tree; plain ASCII where it goes to a file or a pipe."""
    drawn = console.is_terminal and (console.encoding or "").lower().startswith("utf")
    lines = list(graph_lines(store, drawn=drawn))
    for line in lines or ["The store has no release yet: fedrelease simulate"]:
        console.print(Text(plain(line).rstrip()))


def graph_lines(store: Store, *, drawn: bool) -> Iterator[str]:
    """The lines of the tree, newest first."""
    channels, marks = store.channels(), DRAWN if drawn else ASCII
    releases = {release.digest: release for release in store.releases()}
    columns: list[str | None] = []  # the digest that each column leads down to; None where it has ended
    for entry in reversed(_whole(store.history(), list(releases.values()))):
        release = releases.get(entry.digest or "") if isinstance(entry, LogEntry) else entry
        if isinstance(entry, LogEntry) and (entry.event not in RELEASES or release is None):
            yield f"{_bars(columns, marks)}  {_event(entry)}"
        elif release is not None:
            yield from _node(release, entry if isinstance(entry, LogEntry) else None, columns, channels, marks)


def _whole(history: Sequence[LogEntry], releases: Sequence[Release]) -> list[LogEntry | Release]:
    """The log, and every release that it lost where its version belongs."""
    whole: list[LogEntry | Release] = list(history)
    logged = {entry.digest for entry in history if entry.event in RELEASES}
    for lost in (release for release in releases if release.digest not in logged):
        above = (at for at, one in enumerate(whole) if _is_above(one, lost.version))
        whole.insert(next(above, len(whole)), lost)
    return whole


def _is_above(one: LogEntry | Release, version: str) -> bool:
    made = isinstance(one, Release) or one.event in RELEASES
    return made and version_key(one.version) > version_key(version)


def _node(
    release: Release, entry: LogEntry | None, columns: list[str | None], channels: Channels, marks: _Marks
) -> Iterator[str]:
    """A release, below the turns of the branches that end in it; its column then leads to its parent."""
    place = _place(release.digest, columns)
    for other in [at for at, wanted in enumerate(columns) if wanted == release.digest and at != place]:
        yield _turn(place, other, columns, marks)
        columns[other] = None
    while columns and columns[-1] is None:
        columns.pop()
    mark = marks.held if release.manifest.verdict == "held" else marks.released
    yield f"{_bars(columns, marks, {place: mark})}  {_told(release, entry, channels)}"
    columns[place] = release.manifest.parents[0] if release.manifest.parents else None


def _place(digest: str, columns: list[str | None]) -> int:
    """The first column that leads to the release, else a new one."""
    if digest in columns:
        return columns.index(digest)
    if None not in columns:
        columns.append(None)
    place = columns.index(None)
    columns[place] = digest
    return place


def _bars(columns: Sequence[str | None], marks: _Marks, at: dict[int, str] | None = None) -> str:
    cells = [(at or {}).get(place, marks.line if wanted else " ") for place, wanted in enumerate(columns)]
    return " ".join(cells)


def _turn(place: int, other: int, columns: Sequence[str | None], marks: _Marks) -> str:
    """The column ``other`` runs into ``place``, which lies left of it."""
    cells = list(_bars(columns, marks))
    for at in range(2 * place + 1, 2 * other):
        cells[at] = marks.across if cells[at] == " " else cells[at]
    if marks.turn == "/":  # leans on the column to its right, and ends where that did
        cells[2 * other - 1], cells[2 * other] = "/", " "
    else:
        cells[2 * place], cells[2 * other] = "├", marks.turn
    return "".join(cells)


def _told(release: Release, entry: LogEntry | None, channels: Channels) -> str:
    manifest = release.manifest
    pointing = channels.pointing_at(release.version)
    parts = [
        release.version,
        manifest.phase,
        f"round {manifest.round}" if manifest.round else "",
        why(release, entry, channels) or manifest.verdict,
        f"[{', '.join(pointing)}]" if pointing else "",
    ]
    return "  ".join(part for part in parts if part)


def _event(entry: LogEntry) -> str:
    if entry.event == "round-failed":
        return f"{moment(entry.time)}  round {entry.round} made no release: {entry.reason}"
    where = f"{', '.join(entry.channels)}: " if entry.channels else ""
    said = ": ".join(part for part in (entry.actor, entry.reason) if part)
    return f"{moment(entry.time)}  {entry.event}  {where}{entry.version}" + (f"  {said}" if said else "")
