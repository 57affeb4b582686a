"""``bisect``: find the release that broke something.

Example::

    fedrelease bisect --good 0.1.1 --bad stable --check "sh check.sh {}"
"""

import os
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fedrelease.cli.output import emit_json, to_stderr, to_stdout
from fedrelease.cli.read import RELEASES, JsonOption, StoreOption, open_store
from fedrelease.errors import FedreleaseError
from fedrelease.wording import plain

if TYPE_CHECKING:
    from fedrelease.server.bisection import Found, Tried
    from fedrelease.server.release import Release
    from fedrelease.server.store import Store

__all__ = ["bisect"]

SKIP = 125
BROKEN = 126
"""From here on the shell says that the command could not run, or was killed."""


def bisect(
    good: Annotated[str, typer.Option("--good", metavar="REF", help="A release that was still good.")],
    bad: Annotated[str, typer.Option("--bad", metavar="REF", help="A later one that is bad.")],
    check: Annotated[str, typer.Option("--check", metavar="CMD", help="Says which it is; {} is the version.")],
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Find the release that broke something.

    CMD runs in the shell, with {} and FEDRELEASE_RELEASE as the version and FEDRELEASE_STORE as the folder. Its exit code
    says: 0 good, 125 cannot tell, 1 to 124 bad; from 126 on the command itself is broken, and the search ends. What it prints
    goes to stderr. Ends with exit code 3 when releases that could not tell hide which one it was.
    """
    from fedrelease.server.bisection import bisect as search

    opened = open_store(store)
    found = search(opened, good=good, bad=bad, check=lambda release: _verdict(release, check), watch=_say)
    if as_json:
        emit_json({**asdict(found), "first_bad": found.suspects[0] if len(found.suspects) == 1 else None})
    else:
        _print(opened, found)
    if len(found.suspects) > 1:
        raise typer.Exit(3)


def _verdict(release: "Release", check: str) -> str:
    command = check.replace("{}", release.version)
    known = {"FEDRELEASE_RELEASE": release.version, "FEDRELEASE_STORE": str(release.root)}
    sys.stdout.flush()
    ran = subprocess.run(
        command, shell=True, env={**os.environ, **known}, stdout=2, check=False
    )  # the user's own command
    if ran.returncode >= BROKEN or ran.returncode < 0:
        raise FedreleaseError(
            f"the check of {release.version} could not run",
            value=f"exit code {ran.returncode}: {command}",
            rule="0 is good, 125 cannot tell, 1 to 124 is bad",
            hint="run that command by hand",
        )
    return "good" if ran.returncode == 0 else "skip" if ran.returncode == SKIP else "bad"


def _say(tried: "Tried") -> None:
    left = f"{tried.left} more at most" if tried.left else "that was the last"
    to_stderr().print(f"{tried.version} is {'skipped' if tried.verdict == 'skip' else tried.verdict}; {left}")


def _print(store: "Store", found: "Found") -> None:
    from fedrelease.cli.diff import print_difference
    from fedrelease.server.difference import difference

    console = to_stdout()
    if len(found.suspects) > 1:
        console.print(f"it was one of {', '.join(found.suspects)}: those that could tell were skipped")
        return
    console.print(plain(f"{found.suspects[0]} is the first bad release; {found.before} was good"))
    before, after = store.find(found.before), store.find(found.suspects[0])
    console.print()
    print_difference(difference(before, after), before, after, console, tensors=5)
