"""A real deployment that is watched while a SuperNode is killed: it comes back at once, and takes part in the next round."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from deployments import Running, deployment

from fedrelease.deployment.logs import read_log
from fedrelease.server.store import Store

WAIT_S = 120.0
pytestmark = pytest.mark.slow


def until(reached: Callable[[], bool], running: Running) -> None:
    end = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < end, running.said()[-2000:]
        time.sleep(0.1)


def events(log: Path) -> list[object]:
    return [line["event"] for line in read_log(log)]


def status(running: Running) -> dict[str, object]:
    return dict(json.loads(running.command("server", "status", "--folder", "server", "--json")))


def test_a_killed_supernode_signs_off_for_its_former_self_and_its_site_trains_again(
    tiny_base: Path, tmp_path: Path
) -> None:
    with deployment(
        tmp_path, tiny_base, sites=("a", "b"), rounds=40, federation="quorum = 0.5", metrics=True
    ) as running:
        site_log, event_log = tmp_path / "a" / "log" / "site.log", tmp_path / "server" / "log" / "events.log"
        until(lambda: "Released" in events(event_log), running)
        assert running.kill("supernode of a")
        until(lambda: "signed-off" in events(site_log), running)
        assert "not-let-in" not in events(site_log)[events(site_log).index("process-ended") :]
        before = len(Store.open(running.store).releases())
        until(lambda: _answers_of_a(event_log, after=before), running)
        found = status(running)
        assert found["running"]
        assert {one["restarts"] for one in found["processes"]} == {0}  # type: ignore[attr-defined]
        assert {one["site"]: one["connected"] for one in found["sites"]} == {"a": True, "b": True}  # type: ignore[attr-defined]
        told = httpx.get(f"http://{running.metrics}/metrics", trust_env=False).text
        assert 'fedrelease_site_connected{site="a"} 1.0' in told
        assert "fedrelease_superlink_up 1.0" in told


def _answers_of_a(log: Path, *, after: int) -> bool:
    """Whether a trained in a round that began when so many releases were there."""
    lines, made = read_log(log), 0
    for line in lines:
        made += line["event"] == "Released"
        if made > after and line["event"] == "SiteAnswered" and line["site"] == "a" and line["refused"] is None:
            return True
    return False
