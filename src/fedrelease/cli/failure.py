"""The one place where an error becomes words, an exit code and, with ``--json``, an ``error`` object.

Example::

    code = report(error, as_json=False)     # says what, given, rule and try on stderr; 1, 2 or 130

Exit codes: 0 done, 1 refused or failed, 2 misused, 3 inconclusive, 130 interrupted.
"""

import errno
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from fedrelease import __version__
from fedrelease.cli.output import emit_json
from fedrelease.errors import FedreleaseError
from fedrelease.wording import plain

__all__ = ["Trouble", "report", "trouble_of"]

CONTINUE = "run the same command again: it goes on where it stopped"
FULL = (errno.ENOSPC, errno.EDQUOT)
SYSTEM_RULES = {
    errno.EACCES: ("permission denied", "use a folder that you may read and write, or change its permissions"),
    errno.EPERM: ("permission denied", "use a folder that you may read and write, or change its permissions"),
    errno.EROFS: ("the disk is read-only", "name a folder on a disk that can be written"),
    errno.ENOENT: ("there is no such file", "check the path"),
    errno.EISDIR: ("this is a folder, not a file", "name a file"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "name another folder, or move that file away"),
    errno.EMFILE: ("too many open files", "raise the limit (ulimit -n) or use fewer --workers"),
    errno.ENOMEM: ("memory is full", "use fewer --workers or a smaller training.micro_batch"),
}


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What a user reads: the four parts of an error, and how the program ends."""

    what: str
    value: str | None = None
    rule: str = ""
    hint: str = ""
    exit_code: int = 1


def report(error: BaseException, *, as_json: bool) -> int:
    """Say what went wrong, in words on stderr or as one JSON object on stdout, and return the exit code."""
    if os.environ.get("FEDRELEASE_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and not as_json:
        print(error.format_message(), file=sys.stderr)
        return 2
    trouble = trouble_of(error)
    if as_json:
        parts = {"what": trouble.what, "value": trouble.value, "rule": trouble.rule, "hint": trouble.hint}
        emit_json({"error": parts})
    else:
        _say(trouble)
    return trouble.exit_code


def trouble_of(error: BaseException) -> Trouble:
    """What a user should read about any exception; one that nobody foresaw is kept in a crash log."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Trouble(what=f"nothing that was released is lost; {CONTINUE}", exit_code=130)
    full = next((cause for cause in _causes(error) if isinstance(cause, OSError) and cause.errno in FULL), None)
    if full is not None:
        return Trouble(what="the disk is full", value=_path(full), hint=f"free some space, then {CONTINUE}")
    if isinstance(error, FedreleaseError):
        return Trouble(**error.to_json(), exit_code=error.exit_code)  # type: ignore[arg-type]  # what is never None
    if isinstance(error, click.ClickException):
        return _misuse(error)
    if isinstance(error, OSError) and error.errno in SYSTEM_RULES and error.filename is not None:
        what, hint = SYSTEM_RULES[error.errno]
        return Trouble(what=what, value=_path(error), hint=hint)
    if isinstance(error, MemoryError):
        return Trouble(what=SYSTEM_RULES[errno.ENOMEM][0], hint=SYSTEM_RULES[errno.ENOMEM][1])
    return _crash(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _path(error: OSError) -> str | None:
    name = error.filename2 or error.filename
    return None if name is None else os.fsdecode(name) if isinstance(name, str | bytes) else str(name)


def _misuse(error: click.ClickException) -> Trouble:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "fedrelease"
    what = error.format_message().rstrip(".")
    return Trouble(what=what, hint=f"{command} --help", exit_code=error.exit_code)


def _crash(error: BaseException) -> Trouble:
    """An error that nobody foresaw: its traceback goes to a file that the user can send in."""
    text = "".join(traceback.format_exception(error))
    line = str(error).strip().split("\n")[0]
    where = _keep(f"fedrelease {__version__}, python {platform.python_version()}, {platform.platform()}\n\n{text}")
    return Trouble(
        what=f"unexpected {type(error).__name__}" + (f": {line}" if line else ""),
        rule="this is a fault of fedrelease, not yours; what was released before it is safe",
        hint=f"report it with {where}" if where else "run it again with FEDRELEASE_DEBUG=1 and report what it prints",
    )


def _keep(text: str) -> Path | None:
    name = f"crash-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log"
    for folder in _crash_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        except OSError:
            continue
        return folder / name
    return None


def _crash_folders() -> Iterator[Path]:
    from fedrelease.cache import cache_folder

    yield cache_folder() / "crashes"
    yield Path(tempfile.gettempdir())


def _say(trouble: Trouble) -> None:
    head = "error:" if trouble.exit_code != 130 else "stopped:"
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        head = click.style(head, fg="red" if trouble.exit_code != 130 else "yellow", bold=True)
    print(f"{head} {plain(trouble.what)}", file=sys.stderr)
    for name, text in (("given", trouble.value), ("rule", trouble.rule), ("try", trouble.hint)):
        if text:
            print(f"  {name + ':':<7}{plain(text)}", file=sys.stderr)
