"""Every process of a deployment is killed at random instants; the federation ends, and nothing is lost, doubled or refunded."""

import random
from pathlib import Path

import pytest
from deployment_faults import at_work, ended, until
from deployments import Running, deployment

from fedrelease.server.store import Store
from fedrelease.server.verify import verify

KILLS = 10
ROUNDS = {"superlink": 12, "superexec": 12, "serverapp": 12, "gateway": 12, "supernode": 25, "executor": 20}
"""More where the others go on without a site: the federation should not end long before the last kill."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("target", ROUNDS)
def test_a_process_that_is_killed_again_and_again_loses_and_doubles_nothing(
    tiny_base: Path, tmp_path: Path, target: str
) -> None:
    numbers, rounds = random.Random(target), ROUNDS[target]
    with deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=rounds, noise="secure") as running:
        places = [f"{target} of {site}" for site in running.sites] if target in ("supernode", "executor") else [target]
        killed = 0
        while killed < KILLS and not running.over():
            place = places[killed % len(places)]
            at_work(running, place, numbers)
            killed += killed_when_there(running, place)
        ended(running, rounds=rounds, fault=f"{target}: SIGKILL", times=killed)
        assert killed > KILLS // 2


def killed_when_there(running: Running, place: str) -> int:
    """Kill a process as soon as it runs; 1, or 0 when the federation has come to its end before."""
    killed: list[int | None] = []

    def tried() -> bool:
        killed.append(running.kill(place))
        return killed[-1] is not None or running.over()

    until(tried, running)
    return int(killed[-1] is not None)


def test_a_server_that_is_killed_goes_on_with_the_same_command(tiny_base: Path, tmp_path: Path) -> None:
    numbers, rounds = random.Random("server"), 8
    with deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=rounds, noise="secure") as running:
        for _ in range(KILLS):
            at_work(running, "server", numbers)
            assert running.server is not None
            running.server.kill()
            running.server.wait()
            running.start_server()
        ended(running, rounds=rounds, fault="server start: SIGKILL", times=KILLS)


def test_a_site_that_is_killed_goes_on_with_the_same_command(tiny_base: Path, tmp_path: Path) -> None:
    numbers, rounds, killed = random.Random("site"), 25, 0
    with deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=rounds, noise="secure") as running:
        site = running.started[1]
        for _ in range(KILLS):
            if running.over():
                break
            at_work(running, "site of a", numbers)
            site.kill()
            site.wait()
            site, killed = running.start_site("a"), killed + 1
        ended(running, rounds=rounds, fault="site start: SIGKILL", times=killed)
        assert killed > KILLS // 2


def test_who_follows_a_channel_has_all_releases_although_the_service_is_killed(tiny_base: Path, tmp_path: Path) -> None:
    numbers, rounds, copy, killed = random.Random("releases"), 25, tmp_path / "copy", 0
    with deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=rounds, noise="secure") as running:
        follow = running.begin("site", "follow", "stable", "--folder", "a", "--store", "copy")
        for _ in range(KILLS // 2):
            at_work(running, "releases", numbers)
            killed += killed_when_there(running, "releases")
        newest = running.versions()[-1]
        until(lambda: newest in versions(copy), running)
        ended(running, rounds=rounds, fault="release service: SIGKILL", times=killed)
        follow.terminate()
        follow.wait()
        assert verify(Store.open(copy)).problems == ()


def versions(copy: Path) -> list[str]:
    """Those of a copy that may not be there yet."""
    return [path.stem for path in (copy / "versions").glob("*.json")]
