"""Trackers in whole runs with real processes: the releases are the same, and each run of a comparison has one of its own."""

from pathlib import Path

from conftest import Undisturbed  # of this folder
from federations import Federation

from fedrelease.experiment_file import load_experiment
from fedrelease.server.store import Store
from fedrelease.server.tracking.choice import Tracking, chosen_trackers
from fedrelease.server.tracking.links import Link, links_of
from fedrelease.simulations.compare.plan import make_plan
from fedrelease.simulations.compare.run import compare
from fedrelease.simulations.simulate import simulate


def links(store: Path) -> set[Link]:
    """Of all releases; every one has some."""
    found = [links_of(release) for release in Store.open(store).releases()]
    assert all(found)
    return {link for of in found for link in of}


def followed(federation: Federation, store: str, *flags: str) -> list[str]:
    warned = list[str]()
    simulate(
        load_experiment(federation.file, [f"federation.store={federation.folder / store}"]),
        store=federation.folder / store,
        cache=federation.cache,
        workers=1,
        watch=lambda event: None,
        say=lambda line: None,
        tracking=Tracking(choices=chosen_trackers(flags), warn=warned.append),
    )
    return warned


def test_a_tracked_run_ends_with_the_same_digest_and_so_does_one_whose_trackers_fail(
    federation: Federation, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    flags = (f"mlflow:{tmp_path / 'mlruns'}", f"tensorboard:{tmp_path / 'file'}")
    warned = followed(federation, "tracked", *flags)
    assert federation.digest("tracked") == undisturbed.digest
    assert [line.partition(" is ")[0] for line in warned] == ["tracking: TensorBoard"]
    assert {link.tracker for link in links(federation.folder / "tracked")} == {"mlflow"}


def test_a_finished_store_is_told_when_a_tracker_is_named_later(
    federation: Federation, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    assert followed(federation, "undisturbed", f"mlflow:{tmp_path / 'mlruns'}") == []
    assert len(links(federation.folder / "undisturbed")) == 1
    assert federation.digest("undisturbed") == undisturbed.digest


def test_every_run_of_a_comparison_is_a_run_of_the_tracker(federation: Federation, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    short = load_experiment(federation.file, ["phase.0.rounds=1"])
    plan = make_plan(short, strategies=("fedavg", "ffa-lora"), sweeps=(), seeds=1)
    for flag in (
        f"mlflow:{tmp_path / 'mlruns'}",
        f"tensorboard:{tmp_path / 'runs'}",
    ):  # then, every run is there already
        compare(
            plan,
            out=tmp_path / "out",
            cache=federation.cache,
            workers=1,
            watch=lambda event: None,
            say=lambda line: None,
            tracking=Tracking(choices=chosen_trackers([flag])),
        )
    found = [links(run.store(tmp_path / "out")) for run in plan.runs()]
    assert [{link.tracker for link in of} for of in found] == [{"mlflow", "tensorboard"}] * 2
    runs = {link.run for of in found for link in of if link.tracker == "mlflow"}
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    assert {client.get_run(run).info.run_name for run in runs} == {"fedavg seed-7", "ffa-lora seed-7"}
