"""``log``, ``show`` and ``verify``: read a store, change nothing.

Example::

    fedrelease log --json | jq '.releases[-1].metrics.accuracy'
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrelease.cli.output import emit_json, put, table, to_stderr, to_stdout
from fedrelease.errors import ReleaseNotFound
from fedrelease.wording import plain

if TYPE_CHECKING:
    from fedrelease.server.release import Release
    from fedrelease.server.store import Store
    from fedrelease.server.verify import Report

__all__ = ["log", "open_store", "show", "verify"]

StoreOption = Annotated[
    Path, typer.Option("--store", metavar="DIR", show_default=False, help="Folder of releases [default: releases].")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
RELEASES = Path("releases")


def log(store: StoreOption = RELEASES, as_json: JsonOption = False) -> None:
    """List the releases of a store.

    Newest first; with --json oldest first. Shows each version's channels, phase and round, who took part, accuracy,
    the worst site, epsilon and verdict.
    """
    from fedrelease.cli.views import log_document, print_log

    opened = open_store(store)
    if as_json:
        emit_json(log_document(opened))
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
    if as_json:
        problems = [{"path": problem.path, "what": problem.what} for problem in report.problems]
        signers = [{"role": role, "fingerprint": by} for role, found in report.signers.items() for by in found]
        emit_json(
            {"ok": report.ok, "checked": report.checked, "problems": problems, "signers": signers, "first": first}
        )
    else:
        _print_report(report, first=first)
    if not report.ok:
        raise typer.Exit(1)


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
        return
    rows = table("problem in", "what")
    for problem in report.problems:
        rows.add_row(plain(problem.path), plain(problem.what))
    put(console, rows)
    console.print(f"{len(report.problems)} problems, {report.checked} files checked")
