"""Where a lever promises exactness, it changes no bit of a release: without it the same federation ends with the same digest.

Promised exact, in float32: the kept prefix, workers and their number, models that stay in memory, sites that are asked in groups
(``test_tiny_clients.py``), Ray (``test_ray.py``). Not promised: rows of like length in one micro-batch, which add up in another
order.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from conftest import Undisturbed  # of this folder
from federations import Federation
from torch import nn

from fedrelease.client import app
from fedrelease.data.row_files import Rows
from fedrelease.data.sites import prepare_sites
from fedrelease.experiment_file import load_experiment
from fedrelease.models.bases import open_base
from fedrelease.server.store import Store
from fedrelease.simulations.bench.sampled import SampledWorker
from fedrelease.simulations.simulate import federate


def one_process(federation: Federation, store: str) -> str:
    """The federation in this process, one site after the other, through the functions that workers run; the head's digest."""
    folder = federation.folder / store
    experiment = load_experiment(federation.file, [f"federation.store={folder}"])
    experiment = replace(experiment, model=replace(experiment.model, precision="float32"))
    base = open_base(experiment.model.base, cache=federation.cache)
    prepared = prepare_sites(
        experiment, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=federation.cache
    )
    (federation.folder / f"{store}.handover").mkdir()
    only = SampledWorker(federation.folder / f"{store}.handover")
    federate(
        experiment,
        store=folder,
        base=base,
        prepared=prepared,
        grid_of=only.grid_of,
        watch=lambda event: None,
    )
    head = Store.open(folder).head()
    assert head is not None
    return head.digest


def computed_every_time(model: nn.Module, rows: Rows, *, key: str) -> Rows:
    """In place of the kept prefix: every step goes through the frozen layers."""
    return rows


def built_for_every_message(build: Callable[..., object]) -> Callable[..., object]:
    """In place of the resident base and model: each message loads them anew, as the usual glue does."""
    return build.__wrapped__  # type: ignore[attr-defined, no-any-return]  # what lru_cache wraps


@pytest.mark.parametrize("lever", ["none taken away", "kept prefix", "resident model", "both"])
def test_the_release_without_a_lever_has_the_digest_of_the_release_with_all(
    federation: Federation, undisturbed: Undisturbed, lever: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lever in ("kept prefix", "both"):
        monkeypatch.setattr(app, "with_prefix", computed_every_time)
    if lever in ("resident model", "both"):
        monkeypatch.setattr(app, "resident_model", built_for_every_message(app.resident_model))
        monkeypatch.setattr(app, "resident_base", built_for_every_message(app.resident_base))
    assert one_process(federation, f"slow {lever}") == undisturbed.digest


def test_the_slow_path_is_another_path(
    federation: Federation, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above would prove nothing without anything to keep, or if the lever had not been pulled."""
    assert undisturbed.digest
    kept = Counter(path.parents[1].name for path in federation.cache.glob("prepared/*/*/*.prefix-*"))
    assert set(kept.values()) == {4}  # in each split that was prepared: two sites, each two kinds of rows
    asked: list[str] = []

    def watched(model: nn.Module, rows: Rows, *, key: str) -> Rows:
        asked.append(key)
        return rows

    monkeypatch.setattr(app, "with_prefix", watched)
    one_process(federation, "watched")
    assert len(asked) == 2 * 2 * (2 + 3)  # train and hold-out rows of two sites, in two trainings and three evaluations
