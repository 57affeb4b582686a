"""Every process of a deployment is killed at random instants; the federation ends, and nothing is lost, doubled or refunded."""

import json
import random
import time
from pathlib import Path

import pytest
from deployments import Running, deployment

from fedrelease.server.store import Store
from fedrelease.server.verify import verify

KILLS = 10
ROUNDS = 12
TARGETS = ("superlink", "superexec", "serverapp", "gateway", "supernode of a", "executor of a")
LONGEST_PAUSE_S = 6.0
AT_MOST_S = 1500.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", TARGETS)
def test_a_process_that_is_killed_again_and_again_loses_and_doubles_nothing(
    tiny_base: Path, tmp_path: Path, target: str
) -> None:
    numbers, killed = random.Random(target), 0
    with deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=ROUNDS, noise="secure") as running:
        end = time.monotonic() + AT_MOST_S
        while killed < KILLS and running.server is not None and running.server.poll() is None:
            assert time.monotonic() < end, running.said()[-3000:]
            time.sleep(numbers.uniform(0.1, LONGEST_PAUSE_S))
            killed += running.kill(target)
        assert running.wait(AT_MOST_S) == 0, running.said()[-3000:]
        assert killed >= KILLS // 2
        check(running)


def check(running: Running) -> None:
    """Each version once, every byte in order, and a charge for each update that was accepted."""
    assert running.versions() == ["0.0.0", *(f"0.1.{round}" for round in range(1, ROUNDS + 1))]
    store = Store.open(running.store)
    assert verify(store).problems == ()
    logged = [json.loads(line) for line in (running.store / "log.jsonl").read_text().splitlines()]
    assert len([one for one in logged if one.get("event") == "released"]) == len(running.versions())
    for site in running.sites:
        charged = {str(one["charge"]) for one in running.charges(site)}
        receipts = [one.charge for release in store.releases() for one in _receipts(release.manifest, site)]
        assert set(receipts) <= charged
        assert len(set(receipts)) == len(receipts)


def _receipts(manifest: object, site: str) -> list[object]:
    privacy = getattr(manifest, "privacy", None)
    return [one for one in privacy.sites if one.site == site] if privacy else []
