"""``gate``: ask a release's gates once more, from what was kept when it was made.

Example::

    fedrelease gate 0.2.1 --html gates.html
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrelease.cli.output import emit_json, to_stderr, to_stdout
from fedrelease.cli.read import RELEASES, JsonOption, StoreOption, open_store
from fedrelease.errors import ExperimentError

if TYPE_CHECKING:
    from fedrelease.server.judging import Measured
    from fedrelease.server.rejudging import Rejudged
    from fedrelease.server.release import Release
    from fedrelease.server.store import Store

__all__ = ["gate"]

EXIT_CODES = {"pass": 0, "fail": 1, "error": 1, "inconclusive": 3}


def gate(
    ref: Annotated[str, typer.Argument(metavar="REF", help="A version, a channel or a digest.")],
    against: Annotated[
        str | None, typer.Option("--against", metavar="REF", help="Compare with this release instead.")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Compare with today's stable and anchor instead.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Ask the gates of latency and memory too, on this machine.")
    ] = False,
    texts: Annotated[
        Path | None,
        typer.Option("--texts", metavar="FILE", help="Texts to measure with, one a line; else the experiment's."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report as a page, too.")
    ] = None,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Ask the gates of a release again.

    They look at what was kept: its answers to each item, its tensors, its report, against the releases that it was compared
    with when it was made. Ends with exit code 0 (pass), 1 (fail or error) or 3 (inconclusive). A report that says something
    new is kept beside the release; its verdict and the channels stay.
    """
    from fedrelease.cli.gates_view import print_gates

    _check(against, now=now, texts=texts, measure=measure)
    opened = open_store(store)
    again = _ask(opened, opened.find(ref), against, now=now, measure=measure, texts=texts)
    if again.is_new:
        _keep(store, again)
    if html is not None:
        _write(html, again)
    if as_json:
        emit_json({**again.report.to_json(), "new": again.is_new})
    else:
        print_gates(again.report, to_stdout())
    raise typer.Exit(EXIT_CODES[again.report.verdict])


def _check(against: str | None, *, now: bool, texts: Path | None, measure: bool) -> None:
    if against is not None and now:
        raise ExperimentError("both --against and --now are given", value=against, hint="leave one out")
    if texts is not None and not measure:
        raise ExperimentError(
            "there is nothing to do with --texts", value=str(texts), rule="--texts goes with --measure"
        )


def _ask(
    store: "Store", release: "Release", against: str | None, *, now: bool, measure: bool, texts: Path | None
) -> "Rejudged":
    from fedrelease.server.judging import compared_with
    from fedrelease.server.rejudging import compared_then, named, rejudge

    others = named(store, against) if against is not None else compared_with(store) if now else None
    measured = None
    if measure:
        others = compared_then(store, release) if others is None else others
        measured = _measured([release, *others.values()], texts)
    return rejudge(store, release, others=others, measured=measured)


def _keep(folder: Path, again: "Rejudged") -> None:
    from fedrelease.server.judging import attach_report

    opened = open_store(folder, writing=True)
    with opened.lock():
        attach_report(opened, again.report)


def _measured(releases: "list[Release]", texts: Path | None) -> "dict[str, Measured]":
    from fedrelease.cache import cache_folder
    from fedrelease.cli.predict import text_lines
    from fedrelease.server.measuring import measure, texts_of

    chosen = text_lines(texts) if texts is not None else texts_of(releases[0], cache=cache_folder())
    to_stderr().print(f"timing {len({one.version for one in releases})} releases in turns")
    return measure(releases, chosen, cache=cache_folder())


def _write(path: Path, again: "Rejudged") -> None:
    from fedrelease.files import write_durably
    from fedrelease.server.gates.page import report_html

    write_durably(path, report_html(again.report).encode())
    to_stderr().print(f"the page is {path}")
