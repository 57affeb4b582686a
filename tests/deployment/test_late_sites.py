"""A real deployment in which one site's process stands still: the round ends without it, and the site is back in a later one."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from deployments import Running, deployment

from fedrelease.deployment.logs import Line, read_log

WAIT_S = 120.0
pytestmark = pytest.mark.slow


def until(reached: Callable[[], bool], running: Running) -> None:
    end = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < end, running.said()[-2000:]
        time.sleep(0.1)


def lines(running: Running, event: str) -> list[Line]:
    return [line for line in read_log(running.folder / "server" / "log" / "events.log") if line["event"] == event]


def test_a_site_that_stands_still_loses_its_rounds_and_is_accepted_again_when_it_goes_on(
    tiny_base: Path, tmp_path: Path
) -> None:
    wished = "quorum = 0.5\nstraggler_factor = 2.0"
    with deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=30, federation=wished) as running:
        until(lambda: bool(lines(running, "Released")), running)
        stopped = running.processes()["executor of b"]
        os.kill(stopped, signal.SIGSTOP)
        try:
            until(lambda: bool(lines(running, "NotWaitedFor")), running)
        finally:
            os.kill(stopped, signal.SIGCONT)
        late = lines(running, "NotWaitedFor")[0]
        assert late["sites"] == ["b"]
        until(lambda: any(trained_by_b(line, after=str(late["version"])) for line in answers(running)), running)
        released = [line["version"] for line in lines(running, "Released")]
        assert late["version"] in released, "the others' round counted"


def answers(running: Running) -> list[Line]:
    return lines(running, "SiteAnswered")


def trained_by_b(line: Line, *, after: str) -> bool:
    later = int(str(line["version"]).split(".")[2]) > int(after.split(".")[2])
    return later and (line["site"], line["step"], line["refused"]) == ("b", "train", None)
