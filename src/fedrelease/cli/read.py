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
from rich.console import Console

from fedrelease.cli.output import emit_json, put, table, to_stderr, to_stdout
from fedrelease.errors import ReleaseNotFound
from fedrelease.files import Json
from fedrelease.wording import plain

if TYPE_CHECKING:
    from fedrelease.server.recompute import Recomputed
    from fedrelease.server.release import Release
    from fedrelease.server.retired import RetiredFiles
    from fedrelease.server.store import Store
    from fedrelease.server.verify import Report

__all__ = ["log", "open_store", "print_retired", "show", "verify"]

StoreOption = Annotated[Path, typer.Option("--store", metavar="DIR", show_default=False, help="Folder of releases.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
RELEASES = Path("releases")
NAMED = 8
"""Releases of which something was retired that are named; the others are counted."""


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
    release against its parents, the log, the channels, and all signatures against the keys that this machine agreed to. Ends
    with exit code 1 when anything is wrong.
    """
    from fedrelease.server.keys import keys_folder
    from fedrelease.server.verify import verify as check

    opened, home = open_store(store), keys_folder()
    report = check(opened, ref, home=home)
    first = report.ok and _remember(store, home)
    rounds = _recomputed(opened, ref) if again else []
    wrong = [one for one in rounds if one.outcome in ("differs", "failed")]
    if as_json:
        problems = [{"path": problem.path, "what": problem.what} for problem in report.problems]
        signers = [{"role": role, "fingerprint": by} for role, found in report.signers.items() for by in found]
        told = {"recomputed": [asdict(one) for one in rounds]} if again else {}
        seen: dict[str, Json] = {"checked": report.checked, "problems": problems, "signers": signers, "first": first}
        retired = [asdict(one) for one in report.retired]
        emit_json({"ok": report.ok and not wrong, **seen, "retired": retired, **told})
    else:
        _print_report(report, first=first)
        _print_recomputed(rounds)
    if wrong or not report.ok:
        raise typer.Exit(1)


def _recomputed(store: "Store", ref: str | None) -> "list[Recomputed]":
    from fedrelease.cache import cache_folder
    from fedrelease.server.beginnings import Beginnings
    from fedrelease.server.recompute import recompute

    return list(recompute(store, ref, beginnings=Beginnings(cache_folder())))


def _print_recomputed(rounds: "Sequence[Recomputed]") -> None:
    """One line a release, and a sum; a release without kept updates is counted, and nothing more."""
    console = to_stdout()
    for one in rounds:
        if one.outcome != "no-spool":
            console.print(plain(f"{one.version}  {one.outcome}" + (f"  {one.what}" if one.what else "")))
    if rounds:
        counts = Counter(one.outcome for one in rounds)
        told = {"same": "came out the same", "differs": "differ", "failed": "could not be computed"}
        parts = [f"{counts[outcome]} {words}" for outcome, words in told.items() if counts[outcome]]
        parts += [f"{counts['no-spool']} without kept updates"] if counts["no-spool"] else []
        parts += [f"{counts['no-base']} whose base is not here"] if counts["no-base"] else []
        console.print(f"rounds: {', '.join(parts)}")


def _remember(store: Path, home: Path) -> bool:
    """Note what was seen of a signed store; whether it was seen for the first time, so that its keys were believed unasked."""
    from fedrelease.server.signed_store import signed_store
    from fedrelease.server.signing import learn
    from fedrelease.server.trust import agreed_keys

    signed = signed_store(store)
    if signed is None:
        return False
    first = agreed_keys(home, signed.id, store) is None
    try:
        learn(store, signed, home)
    except OSError as error:  # who may only read can verify too
        to_stderr().print(f"note: what was seen cannot be remembered in {home}: {error.strerror}")
    return first


def open_store(folder: Path, *, writing: bool = False) -> "Store":
    """The store in a folder; imported late, since it brings torch. Who writes signs with this machine's keys."""
    from fedrelease.server.signing import own_signer
    from fedrelease.server.store import Store

    return Store.open(folder, signer=own_signer() if writing else None)


def _head(store: "Store") -> "Release":
    head = store.head()
    if head is None:
        raise ReleaseNotFound("the store has no release yet", hint="fedrelease simulate")
    return head


def _print_report(report: "Report", *, first: bool) -> None:
    console = to_stdout()
    if report.ok:
        console.print(f"ok: {report.checked} files checked, every byte is what it was when it was released")
        for role, found in sorted(report.signers.items()):
            console.print(f"signed by {', '.join(found)} ({role})")
        if first:
            console.print(
                "first look at this store: its keys are believed from now on; compare them with what its owner says"
            )
        if not report.signers:
            console.print("not signed: who can write to the folder can write a store that verifies")
        print_retired(report.retired, console)
        return
    rows = table("problem in", "what")
    for problem in report.problems:
        rows.add_row(plain(problem.path), plain(problem.what))
    put(console, rows)
    console.print(f"{len(report.problems)} problems, {report.checked} files checked")
    print_retired(report.retired, console)


def print_retired(retired: "Sequence[RetiredFiles]", console: Console) -> None:
    """One line for all that went at the same time."""
    together: dict[tuple[str, str], list[RetiredFiles]] = {}
    for one in retired:
        together.setdefault((one.time, one.rule), []).append(one)
    for (time, rule), found in sorted(together.items()):
        files = sum(len(one.files) for one in found)
        versions = _some([one.version for one in found])
        console.print(plain(f"{files} files of {versions} were retired on {time[:10]}: {rule}"))


def _some(versions: Sequence[str]) -> str:
    return (
        ", ".join(versions)
        if len(versions) <= NAMED
        else f"{', '.join(versions[:NAMED])} and {len(versions) - NAMED} more"
    )
