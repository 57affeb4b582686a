"""``log``, ``show`` and ``verify``: read a store, change nothing.

Example::

    fedrelease log --json | jq '.releases[-1].metrics.accuracy'
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrelease.cli.output import emit_json, put, table, to_stdout
from fedrelease.errors import ReleaseNotFound
from fedrelease.wording import plain

if TYPE_CHECKING:
    from fedrelease.server.recompute import Recomputed
    from fedrelease.server.release import Release
    from fedrelease.server.store import Store
    from fedrelease.server.verify import Report

__all__ = ["log", "open_store", "show", "verify"]

StoreOption = Annotated[
    Path, typer.Option("--store", metavar="DIR", show_default=False, help="Folder of releases [default: releases].")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
RELEASES = Path("releases")


def log(
    store: StoreOption = RELEASES,
    graph: Annotated[
        bool, typer.Option("--graph", help="Draw which release came from which, with every move of a channel.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the releases of a store.

    Newest first; with --json oldest first. Shows each version's channels, phase and round, who took part, accuracy,
    the worst site, epsilon and verdict, and why a release was held or yanked.
    """
    from fedrelease.cli.graph import print_graph
    from fedrelease.cli.views import log_document, print_log

    opened = open_store(store)
    if as_json:
        emit_json(log_document(opened))
    elif graph:
        print_graph(opened, to_stdout())
    else:
        print_log(opened, to_stdout())


def show(
    ref: Annotated[str | None, typer.Argument(metavar="[REF]", hidden=True)] = None,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Show one release.

    REF is a version, a channel or a digest; without it the newest release is shown. Who took part, what it cost in
    privacy, how good it is at each site, its files and its environment.
    """
    from fedrelease.cli.page import print_release
    from fedrelease.cli.views import release_document

    opened = open_store(store)
    release = opened.find(ref) if ref is not None else _head(opened)
    if as_json:
        emit_json(release_document(opened, release))
    else:
        print_release(opened, release, to_stdout())


def verify(
    ref: Annotated[str | None, typer.Argument(metavar="[REF]", hidden=True)] = None,
    again: Annotated[
        bool, typer.Option("--recompute", help="Compute each round again from its kept updates, and compare.")
    ] = False,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Check every byte of a store.

    REF is a version, a channel or a digest; without it all releases are checked. Each file against its digest, each
    release against its parents, the log and the channels. Ends with exit code 1 when anything is wrong.
    """
    from fedrelease.server.verify import verify as check

    opened = open_store(store)
    report = check(opened, ref)
    rounds = _recomputed(opened, ref) if again else []
    wrong = [one for one in rounds if one.outcome in ("differs", "failed")]
    if as_json:
        problems = [{"path": problem.path, "what": problem.what} for problem in report.problems]
        told = {"recomputed": [asdict(one) for one in rounds]} if again else {}
        emit_json({"ok": report.ok and not wrong, "checked": report.checked, "problems": problems, **told})
    else:
        _print_report(report)
        _print_recomputed(rounds)
    if wrong or not report.ok:
        raise typer.Exit(1)


def _recomputed(store: "Store", ref: str | None) -> "list[Recomputed]":
    from fedrelease.server.recompute import recompute

    return list(recompute(store, ref))


def _print_recomputed(rounds: "Sequence[Recomputed]") -> None:
    """One line a release, and a sum; a release without kept updates is counted and nothing more."""
    console = to_stdout()
    for one in rounds:
        if one.outcome != "no-spool":
            console.print(plain(f"{one.version}  {one.outcome}" + (f"  {one.what}" if one.what else "")))
    if rounds:
        counts = Counter(one.outcome for one in rounds)
        told = {"same": "came out the same", "differs": "differ", "failed": "could not be computed"}
        parts = [f"{counts[outcome]} {words}" for outcome, words in told.items() if counts[outcome]]
        parts += [f"{counts['no-spool']} without kept updates"] if counts["no-spool"] else []
        console.print(f"rounds: {', '.join(parts)}")


def open_store(folder: Path) -> "Store":
    """The store in a folder; imported late, since it brings torch."""
    from fedrelease.server.store import Store

    return Store.open(folder)


def _head(store: "Store") -> "Release":
    head = store.head()
    if head is None:
        raise ReleaseNotFound("the store has no release yet", hint="fedrelease simulate")
    return head


def _print_report(report: "Report") -> None:
    console = to_stdout()
    if report.ok:
        console.print(f"ok: {report.checked} files checked, every byte is what it was when it was released")
        return
    rows = table("problem in", "what")
    for problem in report.problems:
        rows.add_row(plain(problem.path), plain(problem.what))
    put(console, rows)
    console.print(f"{len(report.problems)} problems, {report.checked} files checked")
