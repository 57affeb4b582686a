"""Whole federations of virtual sites with a small network: asked in groups, resumable, and none of them in another's way."""

import csv
import json
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from federations import Federation, eventually, workers_of

from fedrelease.client.ledger import Ledger
from fedrelease.errors import ExperimentError, RoundFailed
from fedrelease.server.events import Event, Opened, RoundStarted, SiteAnswered
from fedrelease.server.store import Store
from fedrelease.server.verify import verify
from fedrelease.simulations import simulate as simulate_module
from fedrelease.simulations.simulate import Ray, Summary, sites_folder

TEXT = """\
[federation]
name = "digits"
seed = 3
evaluators = 0
quorum = 0.5

[model]
base = "mlp:784-32"
task = "image-classification"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
adapter = { kind = "full" }

[data]
source = "digits"
server_holdout = 0.2
partition = { by = "virtual", sites = 1000, rows = 12, alpha = 100 }

[training]
epochs = 3
batch_size = 6
lr = 0.1
optimizer = "sgd"

[privacy]
unit = "none"

[[phase]]
rounds = 2
sites_per_round = 40
"""
PRIVATE = ("privacy.unit='example'", "privacy.accountant='rdp'", "phase.0.sites_per_round=5", "federation.evaluators=3")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.toml").write_text(TEXT, encoding="utf-8")
    return Federation(folder=folder, file=folder / "tiny.toml", rows=folder, cache=folder / "cache")


@pytest.fixture(scope="session")
def whole(tiny: Federation) -> Summary:
    """Of a run that nobody disturbs."""
    return tiny.simulate("whole", workers=2)


def assert_as_whole(tiny: Federation, store: str) -> None:
    assert tiny.digest(store) == tiny.digest("whole")
    assert tiny.leftovers(store) == []
    assert verify(Store.open(tiny.folder / store)).ok
    assert workers_of(sites_folder(tiny.folder / store)) == []


def test_a_federation_of_virtual_sites_learns_and_leaves_no_folder_of_theirs(tiny: Federation, whole: Summary) -> None:
    assert (whole.head, whole.released, whole.epsilon) == ("0.1.2", 3, None)
    releases = Store.open(tiny.folder / "whole").releases()
    accuracies = [release.manifest.metrics.server["accuracy"] for release in releases]
    assert accuracies[-1] > accuracies[0] + 0.1
    cohorts = [release.manifest.federation.cohort for release in releases[1:]]
    assert [len(cohort) for cohort in cohorts] == [40, 40] and set(cohorts[0]) != set(cohorts[1])
    assert [path.name for path in sites_folder(tiny.folder / "whole").iterdir() if path.is_dir()] == []
    assert_as_whole(tiny, "whole")


@pytest.mark.parametrize("abreast", [1, pytest.param(7, marks=pytest.mark.slow)])
def test_how_many_sites_are_asked_at_once_changes_no_bit(
    tiny: Federation, whole: Summary, abreast: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate_module, "ABREAST", abreast)
    tiny.simulate(f"abreast-{abreast}", workers=1)
    assert_as_whole(tiny, f"abreast-{abreast}")


@pytest.mark.slow
def test_a_run_that_broke_off_in_the_middle_of_a_round_asks_only_for_what_is_missing(
    tiny: Federation, whole: Summary
) -> None:
    class Stopped(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, SiteAnswered) and event.version == "0.1.2":
            raise Stopped

    with pytest.raises(Stopped):
        tiny.simulate("again", workers=2, watch=stop)
    spooled: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, RoundStarted):
            spooled.append(len(event.spooled))

    assert tiny.simulate("again", workers=1, watch=watch).resumed
    assert len(spooled) == 1 and 0 < spooled[0] < 40
    assert_as_whole(tiny, "again")


@pytest.mark.slow
def test_a_killed_worker_fails_its_group_only(tiny: Federation, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(event: Event) -> None:
        workers = workers_of(sites_folder(tiny.folder / "killed"))
        if isinstance(event, RoundStarted) and not killed:
            nursery = min(workers, key=lambda process: process.create_time())
            killed.append(len(workers))
            for child in nursery.children():
                child.kill()

    try:
        summary = tiny.simulate("killed", workers=2, watch=kill)
        refused = [release.manifest.federation.refused for release in Store.open(summary.store).releases()]
        assert all("died" in one.reason for group in refused for one in group)
    except RoundFailed as error:  # both groups were under way: fewer than the quorum is left
        assert "died with status" in str(error)
    assert killed == [3]
    tiny.simulate("killed", workers=2)
    assert tiny.versions("killed") == ["0.0.0", "0.1.1", "0.1.2"]
    assert workers_of(sites_folder(tiny.folder / "killed")) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_interrupted_leaves_no_process_and_no_shared_memory(
    tiny: Federation, whole: Summary, number: signal.Signals
) -> None:
    store = f"interrupted-{number.name}"
    before, home = shared_memory(), sites_folder(tiny.folder / store)
    for after_s in (0.1, 0.5):
        process = tiny.start("simulate", "tiny.toml", "--store", store, "--workers", "2")
        eventually(partial(_started_or_ended, home, process), why="workers start")
        time.sleep(after_s)
        process.send_signal(number)
        process.communicate(timeout=60)
        eventually(lambda: not workers_of(home), why="a worker is left")
        assert shared_memory() <= before
    assert tiny.command("simulate", "tiny.toml", "--store", store, "--workers", "2").returncode == 0
    assert_as_whole(tiny, store)


def _started_or_ended(home: Path, process: subprocess.Popen[str]) -> bool:
    return bool(workers_of(home)) or process.poll() is not None


def shared_memory() -> set[str]:
    """What torch or Python have made; other programs use that folder too."""
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(("torch_", "psm_", "sem.mp-"))}


def test_one_site_that_fails_is_named_with_its_traceback_and_the_others_go_on(tiny: Federation) -> None:
    """A ledger that cannot be read is that site's trouble alone."""
    cohort: list[str] = []

    def spoil(event: Event) -> None:
        if isinstance(event, RoundStarted) and not cohort:
            cohort.extend(event.cohort)
            home = sites_folder(tiny.folder / "spoilt") / cohort[2]
            home.mkdir(parents=True)
            (home / "ledger.jsonl").write_text("not a charge\n")

    tiny.simulate("spoilt", *PRIVATE, "phase.0.rounds=1", watch=spoil)
    release = Store.open(tiny.folder / "spoilt").releases()[-1].manifest
    assert [one.site for one in release.federation.refused] == [cohort[2]]
    assert "is not a charge" in release.federation.refused[0].reason
    assert len(release.federation.accepted) == 4
    log = (sites_folder(tiny.folder / "spoilt") / "engine.log").read_text()
    assert f"site {cohort[2]} failed" in log and "Traceback" in log and "PrivacyError" in log


def test_private_virtual_sites_keep_ledgers_and_those_alone_who_were_asked(tiny: Federation) -> None:
    summary = tiny.simulate("private", *PRIVATE, workers=2)
    assert summary.epsilon is not None and 0 < summary.epsilon <= 8.0
    releases = Store.open(tiny.folder / "private").releases()
    asked = {site for release in releases for site in release.manifest.federation.cohort}
    told = {receipt.site for release in releases for receipt in release.manifest.privacy.sites}  # type: ignore[union-attr]
    assert tiny.spent("private").keys() == told and asked <= told and len(told) < 5 * 2 + 3 * 3 + 1
    for release in releases[1:]:
        assert len(release.manifest.metrics.sites) == 3
    for path in sites_folder(tiny.folder / "private").glob("*/ledger.jsonl"):
        assert all(entry.federation == "digits" for entry in Ledger(path).entries())


def test_a_million_sites_are_opened_no_slower_than_a_thousand(tiny: Federation) -> None:
    """Whatever is done for each site of the population would take minutes, and hundreds of megabytes."""
    seen: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, Opened):
            seen.append(len(event.sites))

    tiny.simulate("million", "data.partition.sites=1000000", "phase.0.sites_per_round=8", watch=watch)
    assert seen == [1_000_000]
    assert sum(path.stat().st_size for path in (tiny.folder / "million").rglob("*") if path.is_file()) < 2_000_000


@pytest.mark.slow
def test_more_sites_than_there_are_and_all_of_very_many_evaluators_are_refused(tiny: Federation) -> None:
    with pytest.raises(ExperimentError, match="wants more sites than there are"):
        tiny.simulate("refused", "phase.0.sites_per_round=1001")
    with pytest.raises(ExperimentError, match=r"federation\.evaluators is out of bounds"):
        tiny.simulate("refused", "data.partition.sites=20000", "federation.evaluators=1.0")
    with pytest.raises(ExperimentError, match="phase main names sites that are not there") as caught:
        tiny.simulate("refused", "phase.0.sites=['site-000', 'nobody']", "phase.0.sites_per_round=1")
    assert caught.value.value == "nobody" and "..." in caught.value.rule and len(caught.value.rule) < 1000
    with pytest.raises(ExperimentError, match="Ray does not run this experiment"):
        tiny.simulate("refused", ray=Ray(address=None))


def cohorts_of(tiny: Federation, store: str) -> list[tuple[str, ...]]:
    """Each round's cohort."""
    return [release.manifest.federation.cohort for release in Store.open(tiny.folder / store).releases()]


@pytest.mark.parametrize("strategy", ["scaffold", "feddyn"])
@pytest.mark.slow
def test_variates_survive_with_their_sites_and_a_server_that_lost_all_asks_its_way_back(
    tiny: Federation, strategy: str
) -> None:
    """Two workers or one, and after the store is gone: the same bits, and the sites' own files where they were."""
    settings = (
        f"phase.0.strategy='{strategy}'",
        "phase.0.sites_per_round=6",
        "phase.0.rounds=3",
        "data.partition.sites=8",
    )
    tiny.simulate(strategy, *settings, workers=2)
    digest, home = tiny.digest(strategy), sites_folder(tiny.folder / strategy)
    kept = {path.relative_to(home): path.read_bytes() for path in home.glob("*/variates/*/*.safetensors")}
    assert {path.parts[0] for path in kept} == {site for cohort in cohorts_of(tiny, strategy) for site in cohort}
    shutil.rmtree(tiny.folder / strategy)
    tiny.simulate(strategy, *settings, workers=1)
    assert tiny.digest(strategy) == digest
    assert {path.relative_to(home): path.read_bytes() for path in home.glob("*/variates/*/*.safetensors")} == kept
    assert verify(Store.open(tiny.folder / strategy)).ok


@pytest.mark.slow
def test_virtual_time_refuses_who_would_be_late_and_writes_it_down(tiny: Federation, whole: Summary) -> None:
    settings = (
        "virtual_time.examples_per_s=30",
        "virtual_time.spread=1.0",
        "virtual_time.mbit_per_s=1.0",
        "virtual_time.availability=0.9",
        "virtual_time.dropout=0.1",
        "virtual_time.deadline_s=8.0",
    )
    tiny.simulate("timed", *settings, workers=2)
    release = Store.open(tiny.folder / "timed").releases()[1].manifest
    with (sites_folder(tiny.folder / "timed") / "virtual-time.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["version"] == "0.1.1"]
    assert [line["site"] for line in lines] == list(release.federation.cohort)
    in_time = {line["site"] for line in lines if line["outcome"] == "in time"}
    assert in_time == {one.site for one in release.federation.accepted} and 20 <= len(in_time) < 40
    reasons = {one.site: one.reason for one in release.federation.refused}
    assert {line["site"] for line in lines} == in_time | reasons.keys()
    assert any("virtual s" in reason for reason in reasons.values())
    assert all(float(line["seconds"]) <= 8.0 for line in lines)
    digest = tiny.digest("timed")
    shutil.rmtree(tiny.folder / "timed")
    tiny.simulate("timed", *settings, workers=1)
    assert tiny.digest("timed") == digest


@pytest.mark.slow
def test_a_round_that_does_not_wait_takes_who_comes_first_and_others_come_later(
    tiny: Federation, whole: Summary
) -> None:
    settings = (
        "phase.0.strategy={ name = 'fedbuff', buffer = 10 }",
        "phase.0.rounds=8",
        "virtual_time.examples_per_s=30",
        "virtual_time.spread=1.0",
    )
    stopped: list[Event] = []

    def stop(event: Event) -> None:
        stopped.append(event)
        if isinstance(event, SiteAnswered) and event.version == "0.1.4":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.simulate("buffered", *settings, workers=2, watch=stop)
    tiny.simulate("buffered", *settings, workers=1)
    tiny.simulate("buffered-whole", *settings, workers=2)
    assert tiny.digest("buffered") == tiny.digest("buffered-whole")
    releases = Store.open(tiny.folder / "buffered").releases()
    assert [len(one.manifest.federation.accepted) for one in releases] == [0, *[10] * 8]
    assert releases[-1].manifest.metrics.server["accuracy"] > releases[0].manifest.metrics.server["accuracy"] + 0.1


def test_releases_of_images_name_what_is_no_image_file(tiny: Federation, whole: Summary) -> None:
    done = tiny.command("predict", "--release", "stable", "--store", "whole", "a text", "--json")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "no image that can be read" in json.loads(done.stdout)["error"]["what"]


@pytest.mark.slow
def test_the_summary_of_images_points_to_predict_with_a_file(tiny: Federation) -> None:
    done = tiny.command("simulate", "tiny.toml", "--store", "shown", "--set", "phase.0.rounds=1", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert 'predict --release stable --store shown "photo.png"' in done.stdout + done.stderr
    eventually(lambda: not workers_of(sites_folder(tiny.folder / "shown")), why="no worker is left")


@pytest.mark.slow
def test_a_text_where_pixels_belong_is_refused_with_the_way_out(tiny: Federation, tiny_base: Path) -> None:
    for settings, what in (
        ((f"model.base='{tiny_base}'",), "this base does not see images"),
        (("model.adapter.kind='lora'",), "this base and adapter do not train images"),
        (("model.base='mlp:100-8'",), "the rows do not fit the base"),
    ):
        with pytest.raises(Exception, match=what):
            tiny.simulate("misfit", *settings)
        shutil.rmtree(tiny.folder / "misfit", ignore_errors=True)
    assert torch.get_num_threads() >= 1
