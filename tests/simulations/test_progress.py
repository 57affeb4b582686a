import io
from dataclasses import replace

import pytest
from rich.console import Console

from fedrelease.server.events import Event, MemoryBegins, Opened, Released, RoundStarted, SiteAnswered
from fedrelease.simulations.progress import View, advance, draw, seconds_left, watching

OPENED = Opened(head="0.0.0", resumed=True, sites=("a", "b", "c"), rounds=5, rounds_done=1)
STARTED = RoundStarted(version="0.1.2", phase="pilot", round=2, cohort=("a", "b", "c"), spooled=("a",))
RELEASED = Released(
    version="0.1.2",
    digest="sha256:00",
    metrics={"accuracy": 0.8123},
    epsilon=2.5,
    bytes_up=1,
    bytes_down=1,
    seconds=9.0,
)


def answer(site: str, *, step: str = "train", refused: str | None = None, epsilon: float | None = None) -> SiteAnswered:
    return SiteAnswered(version="0.1.2", step=step, site=site, refused=refused, epsilon=epsilon)


def after(*events: Event) -> View:
    view = View()
    for second, event in enumerate(events):
        view = advance(view, event, now=10.0 * second)
    return view


def drawn(view: View, *, now: float = 0.0) -> str:
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(draw(view, now=now))
    return console.export_text()


def test_a_site_in_the_spool_is_not_waited_for() -> None:
    assert after(OPENED, STARTED).sites == {"a": "kept", "b": "waiting", "c": "waiting"}


def test_answers_and_refusals_are_told_apart_and_the_largest_epsilon_counts() -> None:
    view = after(OPENED, STARTED, answer("b", epsilon=2.0), answer("c", refused="norm too large", epsilon=1.0))
    assert view.sites == {"a": "kept", "b": "answered", "c": "refused"}
    assert view.epsilon == 2.0
    assert "✗ c" in drawn(view)


def test_in_the_next_step_all_sites_are_waited_for_again() -> None:
    view = after(OPENED, STARTED, answer("b"), answer("a", step="evaluate"))
    assert view.sites == {"a": "answered", "b": "waiting", "c": "waiting"}
    assert "0.1.2  pilot, round 2: evaluating, 1 of 3 sites answered" in drawn(view)


def test_the_time_left_follows_from_the_rounds_of_this_run_alone() -> None:
    """Round 2 took 20 s (opened at 0, released at 20); 3 rounds are left, and 5 s of the next have passed: 60 - 5."""
    view = after(OPENED, STARTED, RELEASED)
    assert seconds_left(after(OPENED, STARTED), now=10.0) is None
    assert seconds_left(view, now=25.0) == 55.0
    assert "2/5" in drawn(view, now=25.0)
    assert "about 0:55 left" in drawn(view, now=25.0)


def test_with_very_many_sites_those_that_are_waited_for_are_shown() -> None:
    names = tuple(f"site-{number:03}" for number in range(500))
    started = RoundStarted(version="0.1.1", phase="p", round=1, cohort=names, spooled=names[:-2])
    shown = drawn(after(OPENED, started))
    assert "site-499" in shown
    assert "and 488 more" in shown


def test_nothing_is_shown_before_the_store_is_open_but_that_it_prepares() -> None:
    assert "preparing" in drawn(View())


def told(*events: Event, terminal: bool, quiet: bool = False) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal, markup=False, highlight=False)
    with watching(console, quiet=quiet) as watch:
        for event in events:
            watch(event)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_there_is_one_plain_line_a_release() -> None:
    said = told(OPENED, STARTED, answer("b"), RELEASED, terminal=False)
    assert said.splitlines()[-1] == "released 0.1.2  accuracy 0.812  epsilon 2.50  9.0 s"


def test_a_held_release_says_why() -> None:
    why = "held: quality against stable 0.1.1: 3.1 points worse"
    said = told(replace(RELEASED, held=why), terminal=False)
    assert said.splitlines() == ["held 0.1.2  accuracy 0.812  epsilon 2.50  9.0 s", f"  {why}"]
    assert "\x1b" not in said


def test_on_a_terminal_the_release_stays_above_the_live_view() -> None:
    said = told(OPENED, STARTED, answer("b"), RELEASED, terminal=True)
    assert "released 0.1.2" in said


@pytest.mark.parametrize("terminal", [True, False])
def test_a_memory_that_begins_anew_is_told_in_one_sentence(terminal: bool) -> None:
    left = MemoryBegins(phase="broad", strategy="feddyn", before="scaffold", kept="0.1.2")
    none = replace(left, phase="last", strategy="scaffold", before="fedavg", kept=None)
    shown = told(OPENED, left, none, terminal=terminal)
    assert "phase broad: feddyn begins with an empty memory; scaffold's stays with 0.1.2\n" in shown.replace("\r", "")
    assert "phase last: scaffold begins with an empty memory\n" in shown.replace("\r", "")


def test_quiet_is_silent() -> None:
    assert told(OPENED, STARTED, RELEASED, terminal=False, quiet=True) == ""


def test_a_refusal_is_told_and_cannot_carry_escapes() -> None:
    said = told(OPENED, STARTED, answer("b", refused="bad \x1b[2J"), terminal=False)
    assert "refused b in 0.1.2: bad \\x1b[2J" in said


def test_an_error_inside_the_block_comes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted()


def interrupted() -> None:
    with watching(Console(file=io.StringIO(), force_terminal=True), quiet=False):
        raise KeyboardInterrupt
