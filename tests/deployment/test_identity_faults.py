"""Clocks that are off, certificates that are made anew, keys that are lost, while a federation runs."""

import json
from pathlib import Path

import pytest
from deployment_faults import ended, until
from deployments import Running, deployment

from fedrelease.deployment.logs import read_log

SKEWED = Path(__file__).parent / "skewed"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def releases(running: Running) -> int:
    return len(list((running.store / "versions").glob("*.json")))


def released_since(running: Running, *, more: int = 1) -> None:
    """Wait until so many more releases are out."""
    before = releases(running)
    until(lambda: releases(running) >= before + more, running)


def accepted(running: Running, site: str) -> int:
    """How many updates of a site the server has taken."""
    lines = read_log(running.folder / "server" / "log" / "events.log")
    told = (one for one in lines if one["event"] == "SiteAnswered" and one["step"] == "train")
    return sum(1 for one in told if one["site"] == site and one["refused"] is None)


def accepted_since(running: Running, site: str) -> None:
    """Wait until the server has taken another update of a site."""
    before = accepted(running, site)
    until(lambda: accepted(running, site) > before, running)


@pytest.mark.parametrize(("ahead_s", "word"), [(60, "ahead"), (-400, "behind")])
def test_a_site_whose_clock_is_off_is_told_so_and_takes_part_once_it_is_right(
    tiny_base: Path, tmp_path: Path, ahead_s: int, word: str
) -> None:
    rounds = 20
    with deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=rounds, noise="secure") as running:
        accepted_since(running, "a")
        site, right = running.started[1], dict(running.environment)
        site.terminate()
        site.wait()
        running.environment |= {"PYTHONPATH": str(SKEWED), "CLOCK_AHEAD_S": str(ahead_s)}
        site = running.start_site("a")
        until(lambda: any(f"s {word}" in why for why in not_let_in(running, "a")), running)
        released_since(running)
        site.terminate()
        site.wait()
        running.environment = right
        running.start_site("a")
        accepted_since(running, "a")
        ended(running, rounds=rounds, fault=f"clock of a site: {abs(ahead_s)} s {word}", times=1)


def not_let_in(running: Running, site: str) -> list[str]:
    lines = read_log(running.folder / site / "log" / "site.log")
    return [str(line["why"]) for line in lines if line["event"] == "not-let-in"]


def test_a_certificate_that_is_made_anew_while_a_federation_runs_is_used_after_the_next_start(
    tiny_base: Path, tmp_path: Path
) -> None:
    rounds = 12
    with deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=rounds, noise="secure") as running:
        released_since(running, more=2)
        assert "takes it at its next start" in running.command("server", "renew", "--folder", "server")
        released_since(running)
        running.kill("gateway")  # each process reads the new one whenever it starts, whatever the others have
        running.kill("releases")
        released_since(running)
        running.command("server", "stop", "--folder", "server")
        assert running.wait() == 0
        running.start_server()
        ended(running, rounds=rounds, fault="server renew, its processes start again", times=1)


def test_a_site_that_lost_its_key_comes_back_with_another_while_a_federation_runs(
    tiny_base: Path, tmp_path: Path
) -> None:
    rounds = 20
    with deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=rounds, noise="secure") as running:
        accepted_since(running, "a")
        old = running.started[1]
        old.terminate()
        old.wait()
        running.command("server", "invite", "a", "--again", "--folder", "server")
        (tmp_path / "a" / "home").rename(tmp_path / "home")
        (tmp_path / "a").rename(tmp_path / "lost")
        running.join("a")
        (tmp_path / "home").rename(tmp_path / "a" / "home")  # the ledger belongs to the rows, and not to the key
        running.start_site("a")
        accepted_since(running, "a")
        ended(running, rounds=rounds, fault="a site with a new key (invite --again)", times=1)


def test_a_dismissed_site_is_out_at_once_and_comes_back_when_it_is_invited(tiny_base: Path, tmp_path: Path) -> None:
    rounds = 30
    with deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=rounds, noise="secure") as running:
        accepted_since(running, "a")
        running.command("server", "dismiss", "a", "--folder", "server")
        released_since(running, more=2)
        told = json.loads(running.command("server", "status", "--folder", "server", "--json"))
        assert [one["site"] for one in told["sites"]] == ["b"]
        before = accepted(running, "a")
        released_since(running)
        assert accepted(running, "a") == before
        old = running.started[1]
        old.terminate()
        old.wait()
        running.command("server", "invite", "a", "--folder", "server")
        (tmp_path / "a" / "home").rename(tmp_path / "home")
        (tmp_path / "a").rename(tmp_path / "lost")
        running.join("a")
        (tmp_path / "home").rename(tmp_path / "a" / "home")
        running.start_site("a")
        accepted_since(running, "a")
        ended(running, rounds=rounds, fault="a site dismissed, and invited anew", times=1)
