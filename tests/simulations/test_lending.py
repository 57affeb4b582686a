"""One engine for several runs: the releases of engines of their own, and no answer strays from one run to the next."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Undisturbed  # of this folder
from federations import Federation, workers_of

from fedrelease.errors import FedreleaseError
from fedrelease.experiment_file import load_experiment
from fedrelease.simulations.lending import Lender
from fedrelease.simulations.simulate import Summary, simulate


@pytest.fixture
def lender(tmp_path: Path) -> Iterator[Lender]:
    with Lender(home=tmp_path / "engine", workers=1) as lender:
        yield lender
    assert workers_of(tmp_path / "engine") == []
    assert [path.name for path in (tmp_path / "engine").iterdir()] == ["engine.log"]


def lent(lender: Lender, federation: Federation, store: Path, *settings: str) -> Summary:
    experiment = load_experiment(federation.file, settings)
    cache = federation.cache
    return simulate(
        experiment,
        store=store,
        cache=cache,
        workers=None,
        watch=lambda event: None,
        say=lambda line: None,
        lender=lender,
    )


def pids(tmp_path: Path) -> set[int]:
    return {process.pid for process in workers_of(tmp_path / "engine")}


def test_runs_on_one_lent_engine_end_with_the_digests_of_runs_on_their_own(
    lender: Lender, federation: Federation, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    lent(lender, federation, tmp_path / "other", "federation.seed=8", "training.lr=0.5", "model.adapter.rank=1")
    before = pids(tmp_path)
    assert lent(lender, federation, tmp_path / "same").head_digest == undisturbed.digest
    assert pids(tmp_path) == before, "nothing was started anew"
    assert list((tmp_path / "engine").glob("handover-*/*")) == [], "no run leaves files behind for the next one"


@pytest.mark.slow
def test_after_a_run_that_failed_the_next_one_gets_an_engine_without_its_tasks(
    lender: Lender, federation: Federation, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    with pytest.raises(FedreleaseError):
        lent(lender, federation, tmp_path / "broken", "model.adapter.layers=last:9")
    assert lent(lender, federation, tmp_path / "same").head_digest == undisturbed.digest


def test_an_engine_with_work_left_in_it_is_not_lent_again(
    lender: Lender, federation: Federation, tiny_base: Path, tmp_path: Path
) -> None:
    from fedrelease.models.bases import open_base

    experiment, base = load_experiment(federation.file), open_base(str(tiny_base), cache=tmp_path)
    with lender.lend(experiment, base) as first:
        first.wait_until_ready()
        assert first.idle
        first.submit("late", {"kind": "query", "node": {"site": "a"}, "content": {}})
        assert not first.idle
    with lender.lend(experiment, base) as second:
        assert second is not first
