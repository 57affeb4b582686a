"""Whole federations with real processes: repeatable, resumable, and careful with what sites have spent."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Undisturbed  # of this folder
from federations import Federation, Zygote, eventually, workers_of

from fedrelease.errors import ExperimentError, RoundFailed, StoreBusy, StoreError
from fedrelease.retention import Retention
from fedrelease.server.events import Event, Released, RoundStarted, SiteAnswered
from fedrelease.server.retiring import retention_of
from fedrelease.server.store import Store
from fedrelease.server.verify import verify
from fedrelease.simulations.simulate import sites_folder

VERSIONS = ["0.0.0", "0.1.1", "0.1.2"]


class Stopped(Exception):
    """Stands in for a crash."""


def copied(federation: Federation, name: str) -> str:
    """A copy of the undisturbed store and its sites."""
    shutil.copytree(federation.folder / "undisturbed", federation.folder / name)
    shutil.copytree(federation.folder / "undisturbed.sites", federation.folder / f"{name}.sites")
    return name


def assert_as_if_nothing_had_happened(federation: Federation, store: str, undisturbed: Undisturbed) -> None:
    assert federation.digest(store) == undisturbed.digest
    assert federation.versions(store) == VERSIONS
    assert federation.spent(store) == undisturbed.spent
    assert federation.leftovers(store) == []
    assert verify(Store.open(federation.folder / store)).ok
    assert workers_of(federation.folder / f"{store}.sites") == []


def test_a_federation_ends_with_the_base_and_one_release_a_round(
    federation: Federation, undisturbed: Undisturbed
) -> None:
    summary = undisturbed.summary
    assert federation.versions("undisturbed") == VERSIONS
    assert (summary.head, summary.released, summary.held, summary.resumed) == ("0.1.2", 3, 0, False)
    assert summary.head_digest == undisturbed.digest
    assert summary.epsilon is not None and 0 < summary.epsilon <= 8.0
    assert undisturbed.spent.keys() == {"a", "b"} and max(undisturbed.spent.values()) == summary.epsilon
    assert_as_if_nothing_had_happened(federation, "undisturbed", undisturbed)


def test_two_workers_in_another_folder_give_the_same_digest_and_nobody_else_may_disturb_them(
    federation: Federation, undisturbed: Undisturbed
) -> None:
    refused: list[StoreBusy] = []

    def intrude(event: Event) -> None:
        if not refused:
            with pytest.raises(StoreBusy, match=r"in use by process \d+") as caught:
                federation.simulate("two", "training.lr=0.5")
            refused.append(caught.value)

    federation.simulate("two", workers=2, watch=intrude)
    assert refused[0].value == str(federation.folder / "two")
    assert_as_if_nothing_had_happened(federation, "two", undisturbed)


@pytest.mark.slow
def test_another_seed_gives_another_digest_and_privacy_off_takes_the_same_path(
    federation: Federation, undisturbed: Undisturbed
) -> None:
    summary = federation.simulate("plain", "federation.seed=8", "privacy.unit='none'")
    assert federation.versions("plain") == VERSIONS
    assert summary.epsilon is None and federation.spent("plain") == {}
    assert federation.simulate("seeded", "federation.seed=8").head_digest not in (
        undisturbed.digest,
        summary.head_digest,
    )


def test_a_run_stopped_in_the_middle_of_a_round_asks_only_the_sites_that_are_missing(
    federation: Federation, undisturbed: Undisturbed
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, SiteAnswered) and (event.version, event.step) == ("0.1.2", "train"):
            raise Stopped

    with pytest.raises(Stopped):
        federation.simulate("middle", watch=stop)
    events: list[Event] = []
    assert federation.simulate("middle", watch=events.append).resumed
    assert [event.spooled for event in events if isinstance(event, RoundStarted)] == [("a",)]
    trained = [event.site for event in events if isinstance(event, SiteAnswered) and event.step == "train"]
    assert trained == ["b"]
    assert federation.ledger_bytes("middle") == undisturbed.ledgers
    assert_as_if_nothing_had_happened(federation, "middle", undisturbed)


def test_a_run_stopped_after_its_last_release_is_tidied_when_it_is_typed_again(
    federation: Federation, undisturbed: Undisturbed
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Released) and event.version == VERSIONS[-1]:
            raise Stopped

    with pytest.raises(Stopped):
        federation.simulate("last", watch=stop)
    (federation.folder / "last.sites" / "handover-old").mkdir()
    assert len(federation.leftovers("last")) == 2, "the last round's spool, and a handover folder"
    federation.simulate("last")
    assert_as_if_nothing_had_happened(federation, "last", undisturbed)


def test_an_interrupted_run_exits_130_says_how_to_go_on_and_goes_on(
    federation: Federation, undisturbed: Undisturbed
) -> None:
    process = federation.start("simulate", "tiny.toml", "--store", "interrupted")
    ledgers = federation.folder / "interrupted.sites"
    eventually(lambda: process.poll() is not None or list(ledgers.glob("*/ledger.jsonl")), why="the first site answers")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in err and "Traceback" not in err
    assert workers_of(ledgers) == []
    assert not list(ledgers.glob("handover*"))
    done = federation.command("simulate", "tiny.toml", "--store", "interrupted", "--json", "--quiet")
    assert (done.returncode, json.loads(done.stdout)["head_digest"]) == (0, undisturbed.digest)
    assert_as_if_nothing_had_happened(federation, "interrupted", undisturbed)


@pytest.fixture(scope="module")
def zygote(federation: Federation) -> Iterator[Zygote]:
    zygote = Zygote(federation)
    yield zygote
    zygote.close()


@pytest.fixture(scope="module")
def length(federation: Federation, zygote: Zygote) -> float:
    """Seconds of a whole run, for choosing instants."""
    begun = time.monotonic()
    assert zygote.wait(zygote.start("simulate", "tiny.toml", "--store", "timed")) == 0
    return time.monotonic() - begun


def resume(federation: Federation, zygote: Zygote, store: str, undisturbed: Undisturbed) -> None:
    assert zygote.wait(zygote.start("simulate", "tiny.toml", "--store", store)) == 0, zygote.talk.read_text()[-2000:]
    assert_as_if_nothing_had_happened(federation, store, undisturbed)


def kill_in_one_store(
    federation: Federation, zygote: Zygote, undisturbed: Undisturbed, *, length: float, times: int
) -> None:
    """A chain of kills, each of which resumes the one before; a chain that reached its end begins anew."""
    chance, store = random.Random(times), f"chain-{times}-0"
    for number in range(times):
        arguments = ("simulate", "tiny.toml", "--store", store)
        done = zygote.kill_after(chance.uniform(0, length), *arguments) == 0
        if done:
            assert_as_if_nothing_had_happened(federation, store, undisturbed)
            store = f"chain-{times}-{number + 1}"
    resume(federation, zygote, store, undisturbed)


def kill_in_fresh_stores(
    federation: Federation, zygote: Zygote, undisturbed: Undisturbed, *, length: float, times: int
) -> None:
    """One kill a store, spread over the whole run from its first moment on, and its resume."""
    chance = random.Random(times)
    for number in range(times):
        store = f"fresh-{times}-{number}"
        zygote.kill_after((number + chance.random()) / times * length, "simulate", "tiny.toml", "--store", store)
        resume(federation, zygote, store, undisturbed)


@pytest.mark.slow
def test_a_chain_of_kills_in_one_store_ends_where_a_run_that_was_never_killed_ends(
    federation: Federation, zygote: Zygote, undisturbed: Undisturbed, length: float
) -> None:
    kill_in_one_store(federation, zygote, undisturbed, length=length, times=3)


@pytest.mark.slow
def test_a_kill_at_any_instant_of_a_run_changes_nothing_at_its_end(
    federation: Federation, zygote: Zygote, undisturbed: Undisturbed, length: float
) -> None:
    kill_in_fresh_stores(federation, zygote, undisturbed, length=length, times=2)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_a_hundred_kills_in_one_store(
    federation: Federation, zygote: Zygote, undisturbed: Undisturbed, length: float
) -> None:
    kill_in_one_store(federation, zygote, undisturbed, length=length, times=100)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_a_hundred_kills_in_fresh_stores(
    federation: Federation, zygote: Zygote, undisturbed: Undisturbed, length: float
) -> None:
    kill_in_fresh_stores(federation, zygote, undisturbed, length=length, times=100)


def test_deleting_the_servers_store_refunds_no_site(federation: Federation, undisturbed: Undisturbed) -> None:
    store = copied(federation, "deleted")
    shutil.rmtree(federation.folder / store)
    with pytest.raises(RoundFailed, match=r"0 of 2 sites answered.*a: BudgetExceeded.*no room.*b: BudgetExceeded"):
        federation.simulate(store, "federation.seed=8")
    assert RoundFailed.exit_code == 1
    assert federation.versions(store) == ["0.0.0"]
    assert federation.ledger_bytes(store) == undisturbed.ledgers


def test_the_same_experiment_after_deleting_the_store_ends_with_the_same_digest_at_no_further_charge(
    federation: Federation, undisturbed: Undisturbed
) -> None:
    store = copied(federation, "repeated")
    shutil.rmtree(federation.folder / store)
    digest = federation.simulate(store).head_digest
    assert federation.ledger_bytes(store) == undisturbed.ledgers
    assert digest == undisturbed.digest


def test_a_finished_store_is_left_alone_and_the_run_says_so_without_starting_a_worker(
    federation: Federation, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedrelease.simulations.simulate.Engine", None)  # starting one would be an error
    said: list[str] = []
    summary = federation.simulate("undisturbed", said=said)
    assert (summary.head_digest, summary.resumed, summary.released) == (undisturbed.digest, True, 3)
    assert said == [f"nothing to do: {federation.folder / 'undisturbed'} holds every release of this experiment"]


def test_a_store_that_was_moved_is_still_the_same_experiment(federation: Federation, undisturbed: Undisturbed) -> None:
    store = copied(federation, "moved")
    assert federation.simulate(store).head_digest == undisturbed.digest


def test_other_numbers_of_retention_are_no_other_experiment_change_no_digest_and_are_kept(
    federation: Federation, undisturbed: Undisturbed
) -> None:
    store = copied(federation, "tidied")
    again = federation.simulate(store, "retention.releases=3", "retention.updates=1")
    assert again.head_digest == undisturbed.digest
    assert retention_of(Store.open(federation.folder / "tidied")) == Retention(releases=3, updates=1)
    federation.simulate(store)
    assert retention_of(Store.open(federation.folder / "tidied")) == Retention()


def test_another_experiment_on_the_same_store_is_refused_with_every_key_that_differs(
    federation: Federation, undisturbed: Undisturbed
) -> None:
    store = copied(federation, "changed")
    with pytest.raises(StoreError, match="holds the releases of another experiment") as caught:
        federation.simulate(store, "training.lr=0.5", "federation.seed=9")
    assert caught.value.value == "federation.seed: 7 -> 9; training.lr: 0.01 -> 0.5"
    assert federation.digest(store) == undisturbed.digest


def test_a_strategy_that_needs_private_losses_is_refused_with_privacy_in_any_phase_before_anything_is_made(
    federation: Federation,
) -> None:
    phases = ("phase=[{}, {name='fair', strategy='qfedavg'}]",)
    with pytest.raises(ExperimentError, match="qfedavg asks every site to tell its loss, and privacy is on"):
        federation.simulate("fair", *phases)
    assert not (federation.folder / "fair").exists() and not (federation.folder / "fair.sites").exists()


def test_a_store_of_a_newer_layout_is_refused(federation: Federation, tmp_path: Path) -> None:
    (federation.folder / "newer").mkdir()
    (federation.folder / "newer" / "store.json").write_text('{"layout": 99}')
    with pytest.raises(StoreError, match=r"layout 99.*update fedrelease"):
        federation.simulate("newer")
    assert not (federation.folder / "newer.sites").exists()


def test_a_run_while_another_holds_the_store_is_refused_by_number(
    federation: Federation, undisturbed: Undisturbed
) -> None:
    with Store.open(federation.folder / "undisturbed").lock():
        refused = federation.command("simulate", "tiny.toml", "--store", "undisturbed", "--json", "--quiet")
    error = json.loads(refused.stdout)["error"]
    assert refused.returncode == 1
    assert "in use by process" in error["what"] and "--store" in error["hint"]


@pytest.mark.parametrize(("store", "sites"), [("releases", "releases.sites"), ("a/b.c", "a/b.c.sites")])
def test_sites_keep_their_own_beside_the_store(store: str, sites: str) -> None:
    assert sites_folder(Path(store)) == Path(sites)


def test_the_current_folder_may_be_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert sites_folder(Path()) == tmp_path.resolve() / "here.sites"


@pytest.mark.slow
def test_a_run_does_without_the_libraries_of_its_workers_in_its_own_process(
    federation: Federation, undisturbed: Undisturbed
) -> None:
    libraries = "{'datasets', 'opacus', 'pandas', 'peft', 'pyarrow', 'scipy', 'sklearn', 'transformers'}"
    look = (
        f"import sys; from fedrelease.cli import run; run(sys.argv[1:]); print(sorted({libraries} & set(sys.modules)))"
    )
    arguments = [
        "simulate",
        str(federation.file),
        "--store",
        str(federation.folder / "light"),
        "--workers",
        "1",
        "--json",
    ]
    environment = {**os.environ, "FEDRELEASE_CACHE": str(federation.cache)}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", look, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    assert federation.digest("light") == undisturbed.digest
    assert ran.stdout.splitlines()[-1] == "[]"
