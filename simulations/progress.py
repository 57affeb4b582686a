"""Watchers that show a running federation: a live view on a terminal, one plain line per release elsewhere.

Example::

    with watching(console, quiet=False) as watch:
        simulate(experiment, ..., watch=watch)

The view is a pure fold, ``view = advance(view, event)``; the screen only ever draws the newest view.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedrelease.server.events import (
    Event,
    MemoryBegins,
    NotWaitedFor,
    Opened,
    Released,
    RoundStarted,
    SiteAnswered,
    Watcher,
)
from fedrelease.tasks import TASKS
from fedrelease.wording import clock, plain

__all__ = ["View", "advance", "draw", "seconds_left", "watching"]

SITES_SHOWN = 12
STEPS = ("train", "evaluate")
SHOWN = tuple(sorted({name for task in TASKS.values() for name in task.shown}))
"""Metrics beside accuracy; a release has those of its task."""
MARKS = {"waiting": ("·", "dim"), "answered": ("✓", "green"), "kept": ("✓", "cyan"), "refused": ("✗", "red")}


@dataclass(frozen=True, kw_only=True)
class View:
    """Everything the screen shows, as of the last event. Times are seconds of one monotonic clock."""

    rounds: int = 0
    done: int = 0
    done_before: int = 0
    started_at: float | None = None
    last_release_at: float | None = None
    version: str | None = None
    phase: str = ""
    round: int = 0
    step: str = STEPS[0]
    cohort: tuple[str, ...] = ()
    sites: Mapping[str, str] = field(default_factory=dict)
    epsilon: float | None = None


def advance(view: View, event: Event, *, now: float) -> View:
    """The view after one event."""
    if isinstance(event, Opened):
        done = event.rounds_done
        return replace(view, rounds=event.rounds, done=done, done_before=done, started_at=now, last_release_at=now)
    if isinstance(event, RoundStarted):
        return _with_round(view, event)
    if isinstance(event, SiteAnswered):
        return _with_answer(view, event)
    if isinstance(event, MemoryBegins | NotWaitedFor):
        return view
    epsilon = event.epsilon if event.epsilon is not None else view.epsilon
    return replace(view, done=view.done + 1, last_release_at=now, version=None, epsilon=epsilon)


def _with_round(view: View, event: RoundStarted) -> View:
    sites = {site: "kept" if site in event.spooled else "waiting" for site in event.cohort}
    return replace(
        view,
        version=event.version,
        phase=event.phase,
        round=event.round,
        step=STEPS[0],
        cohort=event.cohort,
        sites=sites,
    )


def _with_answer(view: View, event: SiteAnswered) -> View:
    sites = dict(view.sites) if event.step == view.step else dict.fromkeys(view.cohort, "waiting")
    sites[event.site] = "answered" if event.refused is None else "refused"
    epsilon = max((value for value in (view.epsilon, event.epsilon) if value is not None), default=None)
    return replace(view, step=event.step, sites=sites, epsilon=epsilon)


def seconds_left(view: View, *, now: float) -> float | None:
    """Seconds until the last round ends if rounds go on as fast as until now; ``None`` before the first one is done."""
    done = view.done - view.done_before
    if view.started_at is None or view.last_release_at is None or done == 0:
        return None
    a_round = (view.last_release_at - view.started_at) / done
    in_this_round = now - view.last_release_at
    return max(0.0, a_round * (view.rounds - view.done) - in_this_round)


def draw(view: View, *, now: float) -> RenderableType:
    """What the terminal shows: the bar of rounds, and the sites of the round in progress."""
    if view.started_at is None:
        return Text("preparing the base and the data ...", style="dim")
    parts: list[RenderableType] = [_bar(view, now)]
    if view.version is not None:
        parts.append(_heading(view))
        parts.append(_sites(view))
    return Group(*parts)


def _bar(view: View, now: float) -> RenderableType:
    line = Table.grid(padding=(0, 2, 0, 0))
    left = seconds_left(view, now=now)
    line.add_row(
        Text("rounds", style="bold"),
        ProgressBar(total=max(view.rounds, 1), completed=view.done, width=24),
        Text(f"{view.done}/{view.rounds}"),
        Text(f"{clock(now - (view.started_at or now))} elapsed"),
        Text("" if left is None else f"about {clock(left)} left"),
        Text("" if view.epsilon is None else f"epsilon {view.epsilon:.2f}"),
    )
    return line


def _heading(view: View) -> Text:
    doing = {"train": "training", "evaluate": "evaluating"}.get(view.step, view.step)
    answered = sum(state != "waiting" for state in view.sites.values())
    return Text(
        f"{view.version}  {view.phase}, round {view.round}: {doing}, {answered} of {len(view.sites)} sites answered"
    )


def _sites(view: View) -> Text:
    """Each site with its mark; with very many sites only those that the user may have to wait for, or mind."""
    waiting_first = sorted(view.sites.items(), key=lambda item: (item[1] in ("answered", "kept"), item[0]))
    shown = sorted(view.sites.items()) if len(view.sites) <= SITES_SHOWN else waiting_first[:SITES_SHOWN]
    line = Text("  ")
    for site, state in shown:
        mark, style = MARKS[state]
        line.append(f"{mark} {site}   ", style=style)
    if len(view.sites) > len(shown):
        line.append(f"and {len(view.sites) - len(shown)} more", style="dim")
    return line


def _line_of(event: Released) -> str:
    """One plain line about a release."""
    accuracy = event.metrics.get("accuracy")
    parts = [
        f"{'held' if event.held else 'released'} {event.version}",
        "" if accuracy is None else f"accuracy {accuracy:.3f}",
        *(f"{name} {event.metrics[name]:.3f}" for name in SHOWN if name in event.metrics),
        "" if event.epsilon is None else f"epsilon {event.epsilon:.2f}",
        f"{event.seconds:.1f} s",
    ]
    return "  ".join(part for part in parts if part)


def _sentence_of(event: MemoryBegins) -> str:
    stays = f"; {event.before}'s stays with {event.kept}" if event.kept else ""
    return f"phase {event.phase}: {event.strategy} begins with an empty memory{stays}"


def _late(event: NotWaitedFor) -> str:
    """Who, and how long a site had."""
    return f"{', '.join(event.sites)}; {event.allowed_s:g} s were allowed, the median took {event.median_s:g} s"


class _Drawn:
    """The newest view, drawn again whenever the terminal asks. Views are frozen, so another thread may draw one."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin with an empty view."""
        self.view = View()
        self._now = now

    def take(self, event: Event) -> None:
        """Replace the view."""
        self.view = advance(self.view, event, now=self._now())

    def __rich__(self) -> RenderableType:
        """Draw the view as of now."""
        return draw(self.view, now=self._now())


@contextmanager
def watching(console: Console, *, quiet: bool, now: Callable[[], float] = time.monotonic) -> Iterator[Watcher]:
    """A watcher for the time of the ``with`` block: live on a terminal, plain lines elsewhere, nothing when quiet."""
    if quiet:
        yield lambda event: None
    elif not console.is_terminal:
        yield lambda event: _print_release(console, event)
    else:
        drawn = _Drawn(now)
        with Live(drawn, console=console, refresh_per_second=8, transient=True):
            yield lambda event: _show(console, drawn, event)


def _show(console: Console, drawn: _Drawn, event: Event) -> None:
    drawn.take(event)
    _print_release(console, event)


def _print_release(console: Console, event: Event) -> None:
    if isinstance(event, Released):
        console.print(_line_of(event))
        if event.held:
            console.print(plain(f"  {event.held}"))
    elif isinstance(event, MemoryBegins):
        console.print(plain(_sentence_of(event)))
    elif isinstance(event, NotWaitedFor):
        console.print(plain(f"late in {event.version}: {_late(event)}"))
    elif isinstance(event, SiteAnswered) and event.refused is not None:
        console.print(plain(f"refused {event.site} in {event.version}: {event.refused}"))
