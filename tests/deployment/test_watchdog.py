import socket
from pathlib import Path

from fedrelease.deployment.notify import Notify
from fedrelease.server.deployment.watchdog import Patience, Sight, Watchdog

PATIENCE = Patience(progress_s=100.0, pending_s=90.0, application_s=30.0, answer_s=60.0)
RUNS = Sight(state="running", application=True, events=0)


class Clock:
    """A clock that stands until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def after(seconds: float, *sights: Sight) -> str | None:
    """What a watchdog says of the last of these looks, with so many seconds before each."""
    clock, said = Clock(), None
    watchdog = Watchdog(PATIENCE, clock=clock)
    for sight in sights:
        clock.now += seconds
        said = watchdog.look(sight)
    return said


def test_a_run_that_goes_on_is_never_stuck_however_long_it_takes() -> None:
    assert after(99.0, *(Sight(state="running", application=True, events=number) for number in range(1, 50))) is None


def test_a_run_without_an_event_is_stuck_after_its_deadline_and_margin() -> None:
    assert after(50.0, RUNS, RUNS) is None
    assert after(50.5, RUNS, RUNS) == "nothing happened for 101 s; 100 s are allowed"


def test_a_run_without_a_process_is_stuck_long_before_its_deadline() -> None:
    gone = Sight(state="running", application=False, events=3)
    assert after(15.0, RUNS, gone) is None
    assert after(31.0, RUNS, gone) == "no ServerApp runs it for 31 s; 30 s are allowed"


def test_a_run_that_does_not_begin_is_stuck_but_needs_no_process_until_then() -> None:
    pending = Sight(state="pending", application=False, events=0)
    assert after(40.0, pending, pending) is None
    assert after(46.0, pending, pending) == "the run is pending for 92 s; 90 s are allowed"


def test_a_superlink_that_does_not_answer_is_stuck_unless_it_answers_in_between() -> None:
    silent = Sight(state=None, application=True, events=0)
    assert after(25.0, RUNS, silent, silent) is None
    assert after(25.0, silent, silent, RUNS, silent) is None
    assert after(31.0, silent, silent) == "the SuperLink does not answer for 62 s; 60 s are allowed"


def test_the_service_manager_hears_that_a_service_is_ready_alive_and_stopping(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        clock = Clock()
        notify = Notify({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"}, clock=clock)
        notify.ready("sites come in at 0.0.0.0:9443")
        assert manager.recv(500) == b"READY=1\nSTATUS=sites come in at 0.0.0.0:9443"
        for clock.now in (0.0, 9.9, 10.0):  # every third part of 30 s
            notify.alive()
        notify.stopping()
        assert [manager.recv(500) for _ in range(3)] == [b"WATCHDOG=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_a_service_that_nobody_manages_says_nothing_and_goes_on(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "1"}):
        notify = Notify(environment)
        notify.ready("here")
        notify.alive()
        notify.stopping()
