"""``fedrelease compare``: the same federation under several strategies and seeds, with a verdict. Run again, it goes on.

Example::

    fedrelease compare                                                        # the built-in experiment, 3 seeds
    fedrelease compare my.toml --strategies fedavg,ffa-lora --seeds 5 --out comparison
    fedrelease compare --strategies fedavg,fedadam --trials 8 --out tuned     # each with the best of 8 settings
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.status import Status

from fedrelease.cli.options import AsJson, Quiet, Settings, Track, Workers, at_least_one
from fedrelease.cli.output import Column, emit_json, fitting, put, section, to_stderr, to_stdout
from fedrelease.cli.search import Objective, Searched, Trials, search_words, show_search, trial_line, wanted_search
from fedrelease.cli.simulate import load, tracking_of
from fedrelease.files import Json
from fedrelease.wording import clock, duration, number, plain

if TYPE_CHECKING:
    from fedrelease.server.tracking.choice import Tracking
    from fedrelease.simulations.compare.plan import Plan
    from fedrelease.simulations.compare.results import Results
    from fedrelease.simulations.compare.run import Ended, Progress
    from fedrelease.simulations.compare.tuning import Wanted
    from fedrelease.simulations.compare.verdict import Verdict

__all__ = ["compare"]


def compare(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", hidden=True)] = None,
    strategies: Annotated[
        str | None,
        typer.Option(
            "--strategies",
            metavar="A,B:KNOB=VALUE,...",
            help="What is compared, in every phase [default: a list of built-in ones].",
        ),
    ] = None,
    sweeps: Annotated[
        list[str] | None,
        typer.Option("--vary", metavar="KEY=A,B", help="Compare values of a key; repeatable: all combinations."),
    ] = None,
    attacks: Annotated[
        str | None,
        typer.Option("--attacks", metavar="A,B", help="Compare under these attacks, and under none."),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", callback=at_least_one, help="Runs of each, from federation.seed up.")
    ] = 3,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", metavar="NAME", help="What differences are taken to [default: fedavg, else the first]."
        ),
    ] = None,
    trials: Trials = None,
    searched: Searched = None,
    objective: Objective = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of runs and results.")] = Path("comparison"),
    settings: Settings = None,
    workers: Workers = None,
    track: Track = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare strategies, or values of keys, on one experiment.

    FILE is a TOML file or the name of a built-in experiment; without it the experiment called default runs. Every
    variant runs once a seed, on the same split and budget, into a store of its own. Run the same command again to go
    on after an interruption.
    """
    from fedrelease.simulations.compare.files import write_files
    from fedrelease.simulations.compare.plan import make_plan
    from fedrelease.simulations.compare.verdict import baseline_of, judge

    listed = strategies.split(",") if strategies is not None else ()
    hostile = attacks.split(",") if attacks is not None else ()
    search = wanted_search(trials, searched, objective)
    given = load(file, settings or [], None)
    made = make_plan(given, strategies=listed, sweeps=sweeps or [], seeds=seeds, attacks=hostile, search=search)
    against = baseline_of(made, baseline)
    talk = to_stderr()
    tracking = tracking_of(track, talk)
    if not quiet:
        _show(made, talk, against, out)
    results = _run(made, talk, out=out, workers=workers, quiet=quiet, tracking=tracking)
    verdict = judge(results, baseline=against)
    command = _command(file, listed, sweeps, seeds, baseline, settings, search, attacks)
    files = write_files(results, verdict, out=out, command=command)
    _finish(results, verdict, files, as_json=as_json)
    if len(results.failures()) == len(results.runs):
        raise typer.Exit(1)


def _command(
    file: str | None,
    strategies: Sequence[str],
    sweeps: Sequence[str] | None,
    seeds: int,
    baseline: str | None,
    settings: Sequence[str] | None,
    search: "Wanted | None",
    attacks: str | None,
) -> str:
    """The command line that repeats the comparison anywhere."""
    words = ["fedrelease", "compare", *([file] if file else [])]
    words += ["--strategies", ",".join(strategies)] if strategies else []
    words += [word for sweep in sweeps or [] for word in ("--vary", sweep)]
    words += ["--attacks", attacks] if attacks else []
    words += ["--seeds", str(seeds)]
    words += ["--baseline", baseline] if baseline else []
    words += search_words(search)
    words += [word for setting in settings or [] for word in ("--set", setting)]
    return shlex.join(words)


def _show(plan: "Plan", console: Console, baseline: str, out: Path) -> None:
    """What will run, what is the same for all, and where it goes."""
    from fedrelease.simulations.compare.report import setting

    name = plan.experiment.federation.name
    pairs = [*setting(plan), ("baseline", baseline), ("out", str(out)), ("time", "told after the first run")]
    section(console, f"{name}: {len(plan.variants)} variants, {len(plan.seeds)} seeds", pairs)
    console.print()


def _run(
    plan: "Plan", talk: Console, *, out: Path, workers: int | None, quiet: bool, tracking: "Tracking"
) -> "Results":
    from fedrelease.cache import cache_folder
    from fedrelease.simulations.compare.run import compare as run

    def say(line: str) -> None:
        if not quiet:
            talk.print(plain(line))

    with _watching(talk, quiet=quiet) as watch:
        return run(plan, out=out, cache=cache_folder(), workers=workers, watch=watch, say=say, tracking=tracking)


@contextmanager
def _watching(console: Console, *, quiet: bool) -> "Iterator[Progress]":
    """One line for each run that is over; on a terminal also what is going on."""
    if quiet:
        yield lambda event: None
    elif not console.is_terminal:
        yield lambda event: _tell(console, None, event)
    else:
        with console.status("starting ...") as status:
            yield lambda event: _tell(console, status, event)


def _tell(console: Console, status: Status | None, event: object) -> None:
    from fedrelease.server.events import Released
    from fedrelease.simulations.compare.run import Begun, Ended, Tried

    if isinstance(event, Ended | Tried):
        console.print(plain(_line_of(event) if isinstance(event, Ended) else trial_line(event)))
    elif status is not None and isinstance(event, Begun):
        what = "run" if event.run.trial is None else "trial"
        status.update(plain(f"{what} {event.number} of {event.total}: {event.run.variant.name}, seed {event.run.seed}"))
    elif status is not None and isinstance(event, Released):
        label = str(status.status).partition(" - ")[0]
        status.update(plain(f"{label} - {event.version} released"))


def _line_of(ended: "Ended") -> str:
    """``run 2/6  ffa-lora, seed 7  accuracy 0.812  31 s  about 2:05 left``."""
    run, last = ended.finished.run, ended.finished.last
    told = f"failed: {ended.finished.failed}" if last is None else f"accuracy {number(last.accuracy)}"
    took = "was done already" if ended.seconds is None else duration(ended.seconds)
    left = f"  about {clock(ended.left)} left" if ended.left and ended.number < ended.total else ""
    return f"run {ended.number}/{ended.total}  {run.variant.name}, seed {run.seed}  {told}  {took}{left}"


def _finish(results: "Results", verdict: "Verdict", files: Mapping[str, Path], *, as_json: bool) -> None:
    if as_json:
        emit_json(_document(results, verdict, files))
        return
    console = to_stdout()
    show_search(results, console)
    put(console, fitting(console, _columns(verdict)))
    console.print()
    console.print(plain(verdict.sentence), soft_wrap=True)
    _put_attacks(console, results)
    reasons = [(f"{one.run.variant.name}, seed {one.run.seed}", one.failed or "") for one in results.failures()]
    if reasons:
        section(console, "failed", reasons)
    section(console, "files", [(what, str(path)) for what, path in files.items()])


def _put_attacks(console: Console, results: "Results") -> None:
    """Each strategy under each attack, with the share of its clean accuracy that it keeps."""
    from fedrelease.simulations.compare.attack_table import attack_cells, attack_headers, has_attacks

    if has_attacks(results.plan):
        rows = attack_cells(results)
        headers = attack_headers(results)
        columns = [
            Column(header=name if place == 0 else f"{name}>", cells=[row[place] for row in rows], rank=0)
            for place, name in enumerate(headers)
        ]
        console.print("\nunder attack (kept of its own clean accuracy)")
        put(console, fitting(console, columns))


RANKS = (0, 0, 1, 3, 0, 2, 0, 7, 5, 6, 8, 4)
"""In which order columns go where the terminal is narrow: 8 first, 0 never."""


def _columns(verdict: "Verdict") -> list[Column]:
    from fedrelease.simulations.compare.report import HEADERS, cells

    rows = [cells(line) for line in verdict.lines]
    return [
        Column(header=header if place == 0 else f"{header}>", cells=[row[place] for row in rows], rank=RANKS[place])
        for place, header in enumerate(HEADERS)
    ]


def _document(results: "Results", verdict: "Verdict", files: Mapping[str, Path]) -> dict[str, Json]:
    from fedrelease.simulations.compare.attack_table import attack_documents
    from fedrelease.simulations.compare.files import line_document
    from fedrelease.simulations.compare.searched import search_document

    failed: list[Json] = [
        {"variant": one.run.variant.name, "seed": one.run.seed, "reason": one.failed} for one in results.failures()
    ]
    return {
        "name": results.plan.experiment.federation.name,
        "seeds": list(results.plan.seeds),
        "runs": len(results.runs),
        "failed": failed,
        "baseline": verdict.baseline,
        "variants": [line_document(line) for line in verdict.lines],
        "winner": verdict.winner,
        "more_seeds": verdict.more_seeds,
        "verdict": verdict.sentence,
        "attacks": attack_documents(results),
        "search": search_document(results),
        "files": {what: str(path) for what, path in files.items()},
    }
