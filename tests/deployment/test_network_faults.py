"""The network between the sites and the gateway is cut and mended, and processes stop and go on; nothing is lost for it."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from cut_lines import CutLine
from deployment_faults import at_work, ended, until
from deployments import Running, deployment

CUTS = 6
LONGEST_CUT_S = 8.0
STOPPED_S = 75.0
"""Longer than the two heartbeats after which the SuperLink gives a node up."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("how", ["cut", "swallow"])
def test_a_network_that_is_cut_and_mended_costs_rounds_at_most(tiny_base: Path, tmp_path: Path, how: str) -> None:
    numbers, rounds = random.Random(how), 14
    with (
        CutLine() as line,
        deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=rounds, noise="secure", way=line.lead_to) as running,
    ):
        for _ in range(CUTS):
            at_work(running, "network", numbers)
            {"cut": line.cut, "swallow": line.swallow}[how]()
            time.sleep(numbers.uniform(1.0, LONGEST_CUT_S))
            line.mend()
        what = {"cut": "connections end", "swallow": "bytes vanish, connections stay"}[how]
        ended(running, rounds=rounds, fault=f"network: {what}", times=CUTS)


@pytest.mark.parametrize("how", ["cut", "swallow"])
def test_a_network_that_is_away_for_longer_than_a_heartbeat_is_waited_for(
    tiny_base: Path, tmp_path: Path, how: str
) -> None:
    rounds = 6
    with (
        CutLine() as line,
        deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=rounds, noise="secure", way=line.lead_to) as running,
    ):
        until(lambda: "0.1.1" in versions(running), running)
        {"cut": line.cut, "swallow": line.swallow}[how]()
        time.sleep(STOPPED_S)
        line.mend()
        what = {"cut": "no connections", "swallow": "nothing comes through"}[how]
        ended(running, rounds=rounds, fault=f"network: {what} for {STOPPED_S:g} s", times=1)


@pytest.mark.parametrize("target", ["superlink", "serverapp", "gateway", "supernode of a", "executor of a"])
def test_a_process_that_stops_for_longer_than_a_heartbeat_and_goes_on_does_no_harm(
    tiny_base: Path, tmp_path: Path, target: str
) -> None:
    rounds = 6
    with deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=rounds, noise="secure") as running:
        until(lambda: "0.1.1" in versions(running), running)
        stopped = running.kill(target, signal.SIGSTOP)
        assert stopped is not None
        try:
            time.sleep(STOPPED_S)
        finally:
            with contextlib.suppress(ProcessLookupError):  # its supervisor may have started another one
                os.kill(stopped, signal.SIGCONT)
        ended(running, rounds=rounds, fault=f"{target.split()[0]}: SIGSTOP for {STOPPED_S:g} s", times=1)


def versions(running: Running) -> list[str]:
    return [path.stem for path in (running.store / "versions").glob("*.json")]
