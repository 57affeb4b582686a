"""What ``compare`` says of a search, and the flags for it.

Example::

    fedrelease compare --strategies fedavg,fedadam --trials 8 --search strategy.lr=0.01..1
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from rich.console import Console

from fedrelease.cli.options import at_least_one
from fedrelease.cli.output import Column, fitting, put, section
from fedrelease.errors import ExperimentError
from fedrelease.wording import clock, duration, number, plain

if TYPE_CHECKING:
    from fedrelease.simulations.compare.results import Results
    from fedrelease.simulations.compare.run import Tried
    from fedrelease.simulations.compare.tuning import Wanted

__all__ = ["Objective", "Searched", "Trials", "search_words", "show_search", "trial_line", "wanted_search"]

Trials: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--trials",
        metavar="N",
        callback=at_least_one,
        help="Search so many settings of every variant first, and compare the best [default: no search].",
    ),
]
Searched: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--search",
        metavar="KEY=LOW..HIGH",
        help="What --trials searches beside its default spaces; KEY=A,B is a list, strategy.KNOB a knob; repeatable.",
    ),
]
Objective: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--objective", metavar="NAME", help="What --trials judges by: accuracy or worst-site [default: accuracy]."
    ),
]


def wanted_search(trials: int | None, keys: Sequence[str] | None, objective: str | None) -> "Wanted | None":
    """What the flags ask for; ``None`` for no search.

    Raises:
        ExperimentError: a flag that says what to search, and none that says how often.
    """
    from fedrelease.simulations.compare.tuning import Wanted

    if trials is not None:
        return Wanted(trials=trials, keys=tuple(keys or ()), objective=objective or "accuracy")
    if keys or objective:
        flag = "--search" if keys else "--objective"
        raise ExperimentError(
            f"{flag} without --trials",
            value=", ".join(keys) if keys else objective,
            rule="a search has a number of trials, the same for every variant",
            hint="--trials 8",
        )
    return None


def search_words(search: "Wanted | None") -> list[str]:
    """The flags that ask for the same search again."""
    if search is None:
        return []
    words = ["--trials", str(search.trials), *(word for key in search.keys for word in ("--search", key))]
    return words if search.objective == "accuracy" else [*words, "--objective", search.objective]


def trial_line(tried: "Tried") -> str:
    """``trial 2/16  fedadam  training.lr=0.003 fedadam.lr=0.1  accuracy 0.812  31 s  about 2:05 left``."""
    from fedrelease.simulations.compare.searched import values_text

    trial = tried.trial
    told = f"failed: {trial.finished.failed}" if trial.objective is None else f"objective {number(trial.objective)}"
    took = "was done already" if tried.seconds is None else duration(tried.seconds)
    left = f"  about {clock(tried.left)} left" if tried.left else ""
    place = f"trial {tried.number}/{tried.total}"
    return f"{place}  {trial.run.variant.name}  {values_text(trial.values)}  {told}  {took}{left}"


def show_search(results: "Results", console: Console) -> None:
    """What was chosen, what failed, and what it would cost; nothing without a search."""
    from fedrelease.simulations.compare.searched import SEARCH_HEADERS, cost_sentence, search_cells

    rows = search_cells(results)
    if not rows:
        return
    ranks = (0, 0, 1, 2, 0)
    columns = [
        Column(header=header if place < 2 else f"{header}>", cells=[row[place] for row in rows], rank=ranks[place])
        for place, header in enumerate(SEARCH_HEADERS)
    ]
    put(console, fitting(console, columns))
    failed = [
        (f"{trial.run.variant.name}, trial {trial.run.trial}", trial.finished.failed or "")
        for trial in results.trials
        if trial.objective is None
    ]
    if failed:
        section(console, "trials that failed", failed)
    if cost_sentence(results):
        console.print()
        console.print(plain(cost_sentence(results)), soft_wrap=True)
    console.print()
