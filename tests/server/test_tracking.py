"""Trackers show the numbers of the releases, know their runs, and never get in the way of a federation."""

import re
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from example_store import make_store, manifest_of, publish

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment, Federation
from fedrelease.server.attachments import attachments
from fedrelease.server.events import Released
from fedrelease.server.journal import RELEASES
from fedrelease.server.store import Store
from fedrelease.server.tracking.choice import Tracking, chosen_trackers
from fedrelease.server.tracking.following import followed, parameters_of, tell_releases
from fedrelease.server.tracking.links import KIND, Link, links_of
from fedrelease.server.tracking.measured import measured
from fedrelease.server.verify import verify

EXPERIMENT = Experiment(federation=Federation(name="four-sites", store="elsewhere"))
Numbers = dict[tuple[str, int], float]
NOT_HERE = "wandb is large, and is not among what the tests install"


def tracking(*flags: str, warned: list[str] | None = None) -> Tracking:
    return Tracking(choices=chosen_trackers(flags), warn=(warned if warned is not None else []).append)


def expected(store: Store) -> Numbers:
    """Every number that the manifests and the log have, by its name and round; spelled out, since this is the promise."""
    log = {entry.digest: entry for entry in store.history() if entry.event in RELEASES}
    found: Numbers = {}
    for release in store.releases():
        manifest, entry = release.manifest, log[release.digest]
        metrics, federation, privacy = manifest.metrics, manifest.federation, manifest.privacy
        told: dict[str, float | None] = {
            **{f"mean/{name}": value for name, value in metrics.mean.items()},
            **{f"worst/{name}": value for name, value in metrics.worst.items()},
            **{f"server/{name}": value for name, value in metrics.server.items()},
            **{f"site/{site}/{name}": value for site, own in metrics.sites.items() for name, value in own.items()},
            "round/asked": len(federation.cohort),
            "round/accepted": len(federation.accepted),
            "round/refused": len(federation.refused),
            "round/released": manifest.verdict == "released",
            "round/seconds": entry.seconds,
            "round/bytes_up": entry.bytes_up,
            "round/bytes_down": entry.bytes_down,
            "privacy/epsilon": privacy.epsilon_total if privacy else None,
            "privacy/epsilon_round": privacy.epsilon_round if privacy else None,
        }
        found |= {(name, manifest.round): value for name, value in told.items() if value is not None}
    return found


def mlflow_client(folder: Path):  # type: ignore[no-untyped-def]
    from mlflow.tracking import MlflowClient

    return MlflowClient(folder.absolute().as_uri())


def in_mlflow(folder: Path, run: str) -> list[tuple[str, int, float]]:
    client = mlflow_client(folder)
    names = client.get_run(run).data.metrics
    return [(name, one.step, one.value) for name in names for one in client.get_metric_history(run, name)]


def in_tensorboard(folder: Path):  # type: ignore[no-untyped-def]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    read.Reload()
    return read


def texts(folder: Path, tag: str) -> list[str]:
    from tensorboard.util.tensor_util import make_ndarray

    return [
        make_ndarray(one.tensor_proto).item().decode() for one in in_tensorboard(folder).Tensors(f"{tag}/text_summary")
    ]


def cells(table: str) -> Mapping[str, str]:
    return dict(re.findall(r"^\| ([^|]+) \| `([^|]*)` \|$", table, re.MULTILINE))


def run_of(store: Store, tracker: str) -> str:
    """The one run that all releases are linked to."""
    runs = {link.run for release in store.releases() for link in links_of(release) if link.tracker == tracker}
    assert len(runs) == 1
    return runs.pop()


def test_an_mlflow_run_has_every_number_of_every_release(tmp_path: Path) -> None:
    store, place = make_store(tmp_path / "store"), tmp_path / "mlruns"
    tell_releases(store, EXPERIMENT, tracking(f"mlflow:{place}"))
    told = in_mlflow(place, run_of(store, "mlflow"))
    assert {(name, step): value for name, step, value in told} == expected(store)
    assert len(told) == len(expected(store)) > 100


def test_an_mlflow_run_names_its_releases_its_experiment_and_how_it_ended(tmp_path: Path) -> None:
    store, place = make_store(tmp_path / "store"), tmp_path / "mlruns"
    tell_releases(store, EXPERIMENT, tracking(f"mlflow:{place}"))
    client, head = mlflow_client(place), store.find("0.1.4")
    run = client.get_run(run_of(store, "mlflow"))
    for release in store.releases():
        assert run.data.tags[f"release.{release.version}"] == release.digest
        assert run.data.tags[f"verdict.{release.version}"] == release.manifest.verdict
    assert (run.data.tags["head"], run.data.tags["head_digest"]) == (head.version, head.digest)
    assert run.data.params == {name: str(value) for name, value in parameters_of(EXPERIMENT).items()}
    assert {"training.lr", "privacy.epsilon", "phase.0.rounds"} <= run.data.params.keys()
    assert "federation.store" not in run.data.params
    assert (run.info.status, run.info.run_name) == ("FINISHED", "store")
    assert client.get_experiment(run.info.experiment_id).name == "four-sites"


def test_event_files_have_every_number_of_every_release_as_near_as_tensorboard_can(tmp_path: Path) -> None:
    store, place = make_store(tmp_path / "store"), tmp_path / "runs"
    tell_releases(store, EXPERIMENT, tracking(f"tensorboard:{place}"))
    read = in_tensorboard(place / run_of(store, "tensorboard"))
    told = {(tag, one.step): one.value for tag in read.Tags()["scalars"] for one in read.Scalars(tag)}
    assert told == {key: float(np.float32(value)) for key, value in expected(store).items()}


def test_the_texts_of_event_files_have_all_digits_and_the_digests(tmp_path: Path) -> None:
    store, place = make_store(tmp_path / "store"), tmp_path / "runs"
    tell_releases(store, EXPERIMENT, tracking(f"tensorboard:{place}"))
    folder, numbers = place / run_of(store, "tensorboard"), expected(store)
    shown = [cells(text) for text in texts(folder, "release")]
    for release, table in zip(store.releases(), shown, strict=True):
        step = release.manifest.round
        own = {name: value for (name, at), value in numbers.items() if at == step}
        assert {name: float(value) for name, value in table.items() if "/" in name} == own
        assert (table["version"], table["digest"]) == (release.version, release.digest)
    assert cells(texts(folder, "end")[0])["head_digest"] == store.find("0.1.4").digest
    assert cells(texts(folder, "experiment")[0])["training.lr"] == str(EXPERIMENT.training.lr)


def wandb_records(file: Path) -> Iterator[bytes]:
    """Of wandb's file: 7 bytes, then LevelDB's log format; a record may go through several blocks of 32 KiB."""
    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no room for a header: the rest of the block is filled up
            place += 32768 - place % 32768
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield whole
            whole = b""


def test_a_wandb_run_is_written_offline_with_the_numbers_of_the_releases(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason=NOT_HERE)
    from wandb.proto.wandb_internal_pb2 import Record

    store, place, found = make_store(tmp_path / "store"), tmp_path / "wandb", dict[tuple[str, int], float]()
    tell_releases(store, EXPERIMENT, tracking(f"wandb:{place}"))
    (file,) = place.glob("**/run-*.wandb")
    for raw in wandb_records(file):
        history = Record.FromString(raw).history
        items = {item.key or "/".join(item.nested_key): item.value_json for item in history.item}
        step = int(items.pop("_step", history.step.num))
        found |= {(name, step): float(value) for name, value in items.items() if not name.startswith("_")}
    assert found == expected(store)
    assert run_of(store, "wandb") in file.name


def test_a_release_names_its_runs_and_stays_the_release_that_it_was(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    before = [release.digest for release in store.releases()]
    tell_releases(store, EXPERIMENT, tracking(f"mlflow:{tmp_path / 'mlruns'}", f"tensorboard:{tmp_path / 'runs'}"))
    assert [release.digest for release in store.releases()] == before
    assert verify(store).ok
    links = links_of(store.find("0.1.2"))
    assert {(link.tracker, link.where) for link in links} == {("mlflow", "../mlruns"), ("tensorboard", "../runs")}


def test_a_run_that_goes_on_later_is_the_same_run_and_nothing_is_told_twice(tmp_path: Path) -> None:
    store, place = make_store(tmp_path / "store", rounds=2), tmp_path / "mlruns"
    flags = (f"mlflow:{place}", f"tensorboard:{tmp_path / 'runs'}")
    tell_releases(store, EXPERIMENT, tracking(*flags))
    with store.lock():
        publish(store, 3, told=True)
    tell_releases(store, EXPERIMENT, tracking(*flags))
    told = in_mlflow(place, run_of(store, "mlflow"))
    assert sorted(told) == sorted((name, step, value) for (name, step), value in expected(store).items())
    read = in_tensorboard(tmp_path / "runs" / run_of(store, "tensorboard"))
    assert [one.step for one in read.Scalars("mean/accuracy")] == [0, 1, 2, 3]


def test_a_store_whose_releases_are_all_told_is_left_alone(tmp_path: Path) -> None:
    store, place = make_store(tmp_path / "store", rounds=1), tmp_path / "runs"
    tell_releases(store, EXPERIMENT, tracking(f"tensorboard:{place}"))
    files = sorted(place.rglob("*"))
    tell_releases(store, EXPERIMENT, tracking(f"tensorboard:{place}"))
    assert sorted(place.rglob("*")) == files


@pytest.mark.parametrize("tracker", ["mlflow", "tensorboard"])
def test_where_somebody_deleted_the_run_a_new_one_has_everything(tmp_path: Path, tracker: str) -> None:
    store, place = make_store(tmp_path / "store", rounds=1), tmp_path / "place"
    tell_releases(store, EXPERIMENT, tracking(f"{tracker}:{place}"))
    earlier = run_of(store, tracker)
    if tracker == "mlflow":
        mlflow_client(place).delete_run(earlier)
    else:
        shutil.rmtree(place)
    with store.lock():
        publish(store, 2, told=True)
    warned = list[str]()
    tell_releases(store, EXPERIMENT, tracking(f"{tracker}:{place}", warned=warned))
    newest = [links_of(release)[-1].run for release in store.releases()]
    assert len(set(newest)) == 1 and newest[0] != earlier and warned == []
    if tracker == "mlflow":
        assert {(name, step) for name, step, _ in in_mlflow(place, newest[0])} == expected(store).keys()


def test_store_and_folder_may_move_together(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a" / "store", rounds=1)
    tell_releases(store, EXPERIMENT, tracking(f"tensorboard:{tmp_path / 'a' / 'runs'}"))
    (tmp_path / "a").rename(tmp_path / "b")
    moved = Store.open(tmp_path / "b" / "store")
    with moved.lock():
        publish(moved, 2, told=True)
    tell_releases(moved, EXPERIMENT, tracking(f"tensorboard:{tmp_path / 'b' / 'runs'}"))
    assert len({link for release in moved.releases() for link in links_of(release)}) == 1


def test_a_tracker_that_fails_is_left_out_with_one_warning_and_the_others_go_on(tmp_path: Path) -> None:
    store, heard = make_store(tmp_path / "store", rounds=3), list[str]()
    (tmp_path / "file").write_text("no folder")
    warned = list[str]()
    chosen = tracking(f"tensorboard:{tmp_path / 'file'}", f"mlflow:{tmp_path / 'mlruns'}", warned=warned)
    with followed(store, EXPERIMENT, chosen, watch=lambda event: heard.append(event.version)) as watch:  # type: ignore[union-attr]
        for version in ("0.1.1", "0.1.2"):
            with store.lock():
                watch(event_of(store, version))
    assert heard == ["0.1.1", "0.1.2"]
    assert len(warned) == 1 and warned[0].startswith("tracking: TensorBoard is left out from now on: ")
    assert {(name, step) for name, step, _ in in_mlflow(tmp_path / "mlruns", run_of(store, "mlflow"))} == expected(
        store
    ).keys()


def event_of(store: Store, version: str) -> Released:
    release = store.find(version)
    return Released(
        version=version, digest=release.digest, metrics={}, epsilon=None, bytes_up=1, bytes_down=2, seconds=0.12345
    )


def test_a_server_that_is_away_costs_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store, warned = make_store(tmp_path / "store", rounds=1), list[str]()
    tell_releases(store, EXPERIMENT, tracking("mlflow:http://127.0.0.1:9", warned=warned))
    assert len(warned) == 1 and "MLflow is left out" in warned[0] and len(warned[0]) < 250
    assert [links_of(release) for release in store.releases()] == [(), ()]


def test_a_run_that_stops_half_way_is_told_as_failed_and_finished_by_the_next(tmp_path: Path) -> None:
    store, place = make_store(tmp_path / "store", rounds=1), tmp_path / "mlruns"
    with (
        pytest.raises(KeyboardInterrupt),
        followed(store, EXPERIMENT, tracking(f"mlflow:{place}"), watch=print) as watch,
    ):
        with store.lock():
            watch(event_of(store, "0.1.1"))
        raise KeyboardInterrupt
    run = run_of(store, "mlflow")
    assert mlflow_client(place).get_run(run).info.status == "FAILED"
    with store.lock():
        publish(store, 2, told=True)
    tell_releases(store, EXPERIMENT, tracking(f"mlflow:{place}"))
    assert mlflow_client(place).get_run(run_of(store, "mlflow")).info.status == "FINISHED"


def test_a_store_that_cannot_be_read_is_not_the_trackers_business(tmp_path: Path) -> None:
    store, warned = make_store(tmp_path / "store", rounds=1), list[str]()
    path = tmp_path / "store" / "versions" / "0.1.1.json"
    path.chmod(0o600)
    path.write_text("torn")
    chosen = tracking(f"tensorboard:{tmp_path / 'runs'}", warned=warned)
    with pytest.raises(RuntimeError, match="what really happened"), followed(store, EXPERIMENT, chosen, watch=print):
        raise RuntimeError("what really happened")
    assert warned == [] and not (tmp_path / "runs").exists()


def test_without_trackers_nobody_is_between_the_rounds_and_their_watcher(tmp_path: Path) -> None:
    with followed(make_store(tmp_path / "store", rounds=0), EXPERIMENT, Tracking(), watch=print) as watch:
        assert watch is print


def test_a_link_that_is_damaged_or_from_elsewhere_is_none(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", rounds=1)
    tell_releases(store, EXPERIMENT, tracking(f"tensorboard:{tmp_path / 'runs'}"))
    release = store.find("0.1.1")
    (link,) = attachments(store.folder, release.digest, KIND)
    with store.lock():
        store.attach(release.digest, KIND, b'{"of": "another program"}')
    assert [one.tracker for one in links_of(release)] == ["tensorboard"]
    link.path.chmod(0o600)
    link.path.write_bytes(b"torn")
    assert links_of(release) == ()


def test_a_site_cannot_choose_a_metrics_name_that_leads_anywhere() -> None:
    manifest = manifest_of(1)
    hostile = {"../../x": 0.5, "a/b": 0.25, "accuracy": 0.75}
    told = measured(replace(manifest, metrics=replace(manifest.metrics, mean=hostile)), None).numbers
    assert [told[f"mean/{name}"] for name in ("__.._x", "a_b", "accuracy")] == [0.5, 0.25, 0.75]
    assert not [name for name in told if ".." in name.split("/")]


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("tensorbord", "tensorboard?"),
        ("mlflow:", "--track mlflow"),
        ("tensorboard:http://127.0.0.1:6006", "writes into a folder"),
        ("mlflow:https://someone:hunter2@example.org", "MLFLOW_TRACKING_PASSWORD"),
        ("mlflow:https://example.org/?token=hunter2", "MLFLOW_TRACKING_TOKEN"),
    ],
)
def test_a_flag_that_means_no_tracker_is_refused_with_the_way_out_and_without_its_secret(flag: str, says: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        chosen_trackers([flag])
    assert says in str(caught.value) and "hunter2" not in str(caught.value)


@pytest.mark.parametrize("kind", ["mlflow", "tensorboard", "wandb"])
def test_a_missing_package_is_told_before_anything_begins_with_its_extra(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(ExperimentError, match="is not installed") as caught:
        chosen_trackers([kind])
    assert f'"fedrelease[{kind}]"' in caught.value.hint


def test_the_same_tracker_twice_is_one() -> None:
    assert len(chosen_trackers(["tensorboard", "tensorboard:runs"])) == 1


def test_a_link_to_a_server_keeps_its_address(tmp_path: Path) -> None:
    (choice,) = chosen_trackers(["mlflow:http://127.0.0.1:5000"])
    assert choice.where(tmp_path) == choice.place == "http://127.0.0.1:5000"
    assert Link(tracker="mlflow", run="1", where=choice.where(tmp_path)).where == choice.place
