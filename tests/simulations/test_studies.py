"""The built-in experiments load, fit their sources, and say what they are."""

from importlib import resources
from pathlib import Path

import pytest

from fedrelease.catalog import CATALOG
from fedrelease.data.builtin import BUILT_IN
from fedrelease.data.images import IMAGES
from fedrelease.experiment import Experiment
from fedrelease.experiment_file import load_experiment
from fedrelease.server.plan import cohort, planned_rounds
from fedrelease.strategies import make_strategy
from fedrelease.tasks import TASKS

FOLDER = Path(str(resources.files("fedrelease.simulations.studies")))
MADE_BY = {
    "cmudict-stress": "fedrelease export stable --store releases-cmudict --format hf --merged --out cmudict-base"
}
"""Studies whose base is made from releases of another one, and the command that makes it, which their files tell."""
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))


def study(name: str) -> Experiment:
    return load_experiment(FOLDER / f"{name}.toml")


def test_there_is_one_built_in_experiment_for_each_built_in_source_and_one_is_the_default() -> None:
    assert {study(name).data.source for name in NAMES} == set(BUILT_IN) | set(IMAGES)
    assert "default" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_experiment_loads_and_fits_its_source(name: str) -> None:
    found = study(name)
    if found.data.source in IMAGES:
        assert found.model.labels == IMAGES[found.data.source].labels
        return
    source, columns = BUILT_IN[found.data.source], TASKS[found.model.task].columns
    assert "label" not in columns or set(found.model.labels) == set(source.labels)
    assert {getattr(found.data, key) for key in columns} | {found.data.prompt or found.data.text} <= set(source.columns)
    if found.data.partition.by == "column":
        assert found.data.partition.column in source.columns
    assert found.model.base in CATALOG or MADE_BY[name] in (FOLDER / f"{name}.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_every_phase_of_a_built_in_experiment_has_a_strategy_and_a_cohort(name: str) -> None:
    found = study(name)
    sites = tuple(f"site-{number:02d}" for number in range(found.data.partition.sites))
    for phase in found.phases:
        make_strategy(phase.strategy)
    assert all(cohort(planned, sites=sites, seed=7) for planned in planned_rounds(found))


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_experiment_opens_with_one_sentence_and_explains_itself(name: str) -> None:
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    first = text.partition("\n")[0]
    assert first.startswith("# ") and len(first) < 120
    assert text.count("#") >= 4


def test_experiments_on_different_sources_never_share_a_store() -> None:
    """The second one would be refused; variants of one experiment are told apart with ``--store``."""
    stores: dict[str, set[str]] = {}
    for name in NAMES:
        stores.setdefault(study(name).federation.store, set()).add(study(name).data.source)
    assert all(len(sources) == 1 for sources in stores.values())


def test_the_default_is_private_and_ends_on_the_stable_channel() -> None:
    default = study("default")
    assert (default.privacy.unit, default.privacy.epsilon) == ("example", 8.0)
    assert [phase.channel for phase in default.phases] == ["canary", "stable"]
    assert default.rounds == 5
