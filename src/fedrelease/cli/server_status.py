"""``fedrelease server status``: one page about a server, from its logs and its SuperLink; ``--watch`` draws it again and again.

Example::

    fedrelease server status --watch
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedrelease.cli.options import AsJson, stop_wanted
from fedrelease.cli.output import Column, emit_json, fitting, put, section, to_stdout
from fedrelease.wording import amount, duration, number, plain

if TYPE_CHECKING:
    from fedrelease.server.deployment.status import ServerStatus

__all__ = ["status"]

AGAIN_S = 2.0
SHOWN = 5
SOON_DAYS = 30


def status(
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Folder of the server.")] = Path("server"),
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again every two seconds, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how a server stands: processes, sites, the round in progress, the newest release, refusals, problems.

    It only reads, and works as well when nothing runs.
    """
    from fedrelease.server.deployment.folder import open_server
    from fedrelease.server.deployment.status import read_status, status_facts

    server = open_server(folder)
    if not watch:
        found = read_status(server, now=datetime.now(UTC))
        emit_json(status_facts(found)) if as_json else _show(to_stdout(), found)
        return
    console = to_stdout()
    with stop_wanted() as stopped:
        while not stopped():
            found = read_status(server, now=datetime.now(UTC))
            if as_json:
                emit_json(status_facts(found))
            else:
                console.clear()
                _show(console, found)
            _rest(stopped_at=time.monotonic() + AGAIN_S, stopped=stopped)


def _rest(*, stopped_at: float, stopped: Callable[[], bool]) -> None:
    while time.monotonic() < stopped_at and not stopped():
        time.sleep(0.1)


def _show(console: Console, found: "ServerStatus") -> None:
    section(console, f"{found.name} in {found.folder}", list(_server(found)))
    _processes(console, found)
    _sites(console, found)
    section(console, "round", list(_round(found)))
    section(console, "releases", list(_releases(found)))
    for title, told in (("last refusals", found.refusals), ("last problems", found.problems)):
        if told:
            section(console, title, [(_clock(one.time), f"{one.process}: {one.what}") for one in told[-SHOWN:]])


def _server(found: "ServerStatus") -> Iterator[tuple[str, str]]:
    yield "server", f"runs as process {found.pid} since {_when(found.since)}" if found.running else "does not run"
    yield "sites come in at", found.listen
    if found.run:
        yield "run", f"{found.run} since {_when(found.run_since)}"
    yield "store", found.store or ""
    for site, expires in found.invitations.items():
        yield "invited", f"{site}, until {_when(expires)}"
    for one in found.certificates:
        soon = "" if one.days > SOON_DAYS else ": soon" if one.days > 0 else ": it has expired"
        yield f"certificate of {one.name}", f"until {one.expires[:10]}{soon}"


def _processes(console: Console, found: "ServerStatus") -> None:
    if not found.processes:
        return
    them = found.processes
    columns = [
        Column(header="process", cells=[one.name for one in them]),
        Column(header="runs", cells=["yes" if one.alive else "no" for one in them]),
        Column(header="pid>", cells=[str(one.pid) for one in them], rank=2),
        Column(header="since", cells=[_when(one.since) for one in them], rank=1),
        Column(header="restarts>", cells=[str(one.restarts) for one in them]),
    ]
    console.print()
    put(console, fitting(console, columns))


def _sites(console: Console, found: "ServerStatus") -> None:
    if not found.sites:
        return
    them = found.sites
    there = {True: "yes", False: "no", None: "-"}
    columns = [
        Column(header="site", cells=[one.site for one in them]),
        Column(header="connected", cells=[there[one.connected] for one in them]),
        Column(header="last seen", cells=[_when(one.last_seen) for one in them]),
        Column(header="this round", cells=[_answer(one.answer, one.refused) for one in them]),
        Column(header="certificate", cells=[_days(one.certificate_days) for one in them], rank=2),
        Column(header="key", cells=[one.fingerprint[:16] for one in them], rank=1),
    ]
    console.print()
    put(console, fitting(console, columns))


def _days(left: float | None) -> str:
    return "-" if left is None else "ended" if left <= 0 else f"{left:.0f} days"


def _answer(answer: str | None, refused: str | None) -> str:
    if refused is not None:
        return f"refused: {refused}"
    return {"train": "trained", "evaluate": "evaluated", None: "-"}.get(answer, str(answer))


def _round(found: "ServerStatus") -> Iterator[tuple[str, str]]:
    round = found.round
    if round is None:
        yield "round", "none yet"
        return
    of = f" of {round.rounds}" if round.rounds else ""
    yield "version", f"{round.version}, phase {round.phase}, round {round.round}{of}"
    if round.ended:
        yield "step", "it has ended"
        return
    yield "step", f"{'training' if round.step == 'train' else 'evaluating'}; begun {_when(round.since)}"
    yield "answered", ", ".join(round.answered) or "nobody yet"
    yield "refused", ", ".join(round.refused)
    yield "waiting for", ", ".join(round.waiting)


def _releases(found: "ServerStatus") -> Iterator[tuple[str, str]]:
    newest = found.newest
    if newest is not None:
        yield "newest", f"{newest.version} {newest.digest[:23]} at {_when(newest.time)}"
        yield "held", newest.held or ""
    yield "made", f"{found.released} released, {found.held} held"
    yield "epsilon", f"{number(found.epsilon, 3)}, the worst site's" if found.epsilon is not None else ""
    yield "payload", f"{amount(found.bytes_up)} up, {amount(found.bytes_down)} down"
    yield "a round takes", duration(found.seconds_per_round)


def _when(time: str | None) -> str:
    """A time in UTC as people read it."""
    return plain(time)[:19].replace("T", " ") if time else "-"


def _clock(time: str) -> str:
    return plain(time)[11:19]
