"""What holds after every fault, and the line of the table that each case adds.

Example::

    with deployment(tmp_path, tiny_base, sites=("a", "b"), rounds=12, noise="secure") as running:
        ...                                            # something dies, again and again
        ended(running, rounds=12, fault="superlink: SIGKILL", times=10)

``FEDRELEASE_FAULTS`` names a file to which the lines go.
"""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from deployments import Running

from fedrelease.client.ledger import Ledger
from fedrelease.deployment.logs import read_log
from fedrelease.privacy import Receipt
from fedrelease.server.release import Release
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

AT_MOST_S = 1500.0
LONGEST_PAUSE_S = 4.0
LOOK_S = 0.05
RUNS_A_FAULT = 3
"""That may be begun for one fault at most: who begins them again and again helps nobody."""


def until(reached: Callable[[], bool], running: Running, *, at_most_s: float = 600.0) -> None:
    """Wait for something to happen; what was said is shown if it does not."""
    end = time.monotonic() + at_most_s
    while not reached():
        assert time.monotonic() < end, running.said()[-3000:]
        time.sleep(LOOK_S)


def at_work(running: Running, place: str, numbers: random.Random) -> None:
    """Any instant; every other time one after the federation has gone on since the last kill, so that there is work to lose."""
    if numbers.random() < 0.5:
        before = progress(running, place)
        until(lambda: progress(running, place) > before or running.over(), running)
    time.sleep(numbers.uniform(0.0, LONGEST_PAUSE_S))


def progress(running: Running, place: str) -> int:
    """What was done: charges of a site, or releases."""
    _, _, site = place.partition(" of ")
    if site:
        return len(running.charges(site))
    return len(list((running.store / "versions").glob("*.json")))


def ended(running: Running, *, rounds: int, fault: str, times: int) -> None:
    """The federation comes to its end, everything holds, and the table has a line more."""
    assert running.wait(AT_MOST_S) == 0, running.said()[-3000:]
    check(running, rounds)
    assert runs_begun(running) <= 1 + RUNS_A_FAULT * times
    tell(running, fault, times)


def check(running: Running, rounds: int) -> None:
    """Each version once, every byte in order, and a charge for each update that was accepted; none was ever taken back."""
    assert running.versions() == ["0.0.0", *(f"0.1.{round}" for round in range(1, rounds + 1))]
    store = Store.open(running.store)
    assert verify(store).problems == ()
    logged = [line for line in read_log(running.store / "log.jsonl") if line.get("event") == "released"]
    assert [line["version"] for line in logged] == list(running.versions())
    for site in running.sites:
        charged = [one.charge for one in Ledger(running.folder / site / "home" / "ledger.jsonl").entries()]
        receipts = [one for release in store.releases() for one in receipts_of(release, site)]
        told = [one.charge for one in receipts]
        assert set(told) <= set(charged)
        assert len(set(told)) == len(told) and len(set(charged)) == len(charged)
        for pool in ("train", "holdout"):
            totals = [one.epsilon_total for one in receipts if one.pool == pool]
            assert totals == sorted(totals)


def receipts_of(release: Release, site: str) -> list[Receipt]:
    privacy = release.manifest.privacy
    return [one for one in privacy.sites if one.site == site] if privacy else []


def missed(running: Running) -> int:
    """In how many rounds a site's update is not, over all sites."""
    federations = [release.manifest.federation for release in Store.open(running.store).releases()[1:]]
    return sum(len(one.cohort) - len(one.accepted) for one in federations)


def runs_begun(running: Running) -> int:
    """How often a run of Flower's was begun."""
    return [line["event"] for line in read_log(running.folder / "server" / "log" / "server.log")].count("run-started")


def paid_again(running: Running) -> int:
    """Charges for training whose update is in no release: the site died after it had paid, or was given up meanwhile."""
    found = 0
    for site in running.sites:
        charged = sum(1 for one in running.charges(site) if one["pool"] == "train")
        used = sum(
            1 for one in Store.open(running.store).releases() for r in receipts_of(one, site) if r.pool == "train"
        )
        found += charged - used
    return found


def tell(running: Running, fault: str, times: int) -> None:
    """One line of the table, into the file that ``FEDRELEASE_FAULTS`` names."""
    if (path := os.environ.get("FEDRELEASE_FAULTS")) is None:
        return
    rounds = len(running.versions()) - 1
    numbers = (times, rounds, missed(running), runs_begun(running) - 1, paid_again(running))
    with Path(path).open("a", encoding="utf-8") as file:
        if not file.tell():
            file.write(f"{'fault':44} times  releases  missed  runs again  paid again\n")
        file.write("{:44} {:5}  {:8}  {:6}  {:10}  {:10}\n".format(fault, *numbers))
