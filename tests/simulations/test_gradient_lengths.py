"""How long gradients of single rows are: the same that training clips, and what a user is told of them."""

import json
from pathlib import Path

import pytest
import torch
from federations import Federation, write_federation
from reference import norm_of, slow_gradient

from fedrelease.cli.data_lengths import advice
from fedrelease.client.training import summed_loss
from fedrelease.data.sites import open_site
from fedrelease.errors import DataError
from fedrelease.experiment import Experiment
from fedrelease.experiment_file import load_experiment
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import load_state
from fedrelease.models.per_example import per_example
from fedrelease.models.tasks import Classifier, build_model
from fedrelease.server.local_model import initial_state
from fedrelease.simulations.lengths import Lengths, gradient_lengths
from fedrelease.simulations.simulate import fetched_base, prepared_sites


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Federation:
    return write_federation(tmp_path_factory.mktemp("lengths"), tiny_base)


def looked_at(federation: Federation, *settings: str, site: str | None = None, rows: int = 4) -> Lengths:
    experiment = load_experiment(federation.file, list(settings))
    return gradient_lengths(experiment, site=site, rows=rows, cache=federation.cache, say=lambda line: None)


def lengths_of(*lengths: float, clip: float = 1.0) -> Lengths:
    return Lengths(site="a", site_rows=9, lengths=torch.tensor(lengths, dtype=torch.float64), numbers=5, clip=clip)


def as_it_begins(federation: Federation, experiment: Experiment) -> Classifier:
    base = open_base(experiment.model.base, cache=federation.cache)
    model = build_model(base, experiment.model, seed=experiment.federation.seed)
    load_state(model, initial_state(base, experiment))
    return model


def test_they_are_those_of_the_gradients_that_training_clips_and_of_one_row_at_a_time(federation: Federation) -> None:
    found = looked_at(federation, rows=1000)
    experiment = load_experiment(federation.file, [])
    model = as_it_begins(federation, experiment)
    prepared = prepared_sites(experiment, fetched_base(experiment, federation.cache, print), federation.cache, print)
    rows = open_site(prepared.folder / "a").train
    assert (found.site, len(found.lengths), found.site_rows) == ("a", len(rows), len(rows))
    trained = [value for value in model.parameters() if value.requires_grad]
    with per_example(model):
        torch.autograd.backward(summed_loss(model, rows, torch.arange(len(rows))))
        clipped = [value.grad_sample.flatten(1) for value in trained]  # type: ignore[attr-defined]  # Opacus' name
    assert found.numbers == sum(value.numel() for value in trained)
    assert torch.allclose(found.lengths, torch.cat(clipped, 1).norm(dim=1).sort().values.double(), rtol=1e-4)
    slow = (norm_of(slow_gradient(model, trained, rows, row)) for row in range(len(rows)))
    assert found.lengths.tolist() == pytest.approx(sorted(slow), rel=1e-4)


def test_a_factor_that_a_strategy_freezes_is_not_among_the_numbers(federation: Federation) -> None:
    all_of_it, half = looked_at(federation), looked_at(federation, "phase.0.strategy=ffa-lora")
    assert half.numbers < all_of_it.numbers


def test_rows_are_spread_over_the_whole_site_and_a_site_has_a_name(federation: Federation) -> None:
    assert looked_at(federation, site="b").site == "b"
    assert len(looked_at(federation, rows=3).lengths) == 3
    with pytest.raises(DataError, match="no such site"):
        looked_at(federation, site="nobody")


def test_shares_and_quantiles_by_hand() -> None:
    found = lengths_of(0.01, 0.02, 0.03, 0.04, 2.0)
    assert (found.at(0.5), found.cut) == (pytest.approx(0.03), pytest.approx(0.2))


@pytest.mark.parametrize(
    ("lengths", "clip", "said"),
    [
        ((0.02, 0.03, 0.04), 0.03, "33% of these gradients are longer, and are shortened to that."),
        ((0.02, 0.03, 0.04), 0.9, "privacy.clip is 0.9: none of these gradients is longer."),
        ((0.02, 0.03, 0.04), 0.9, "With --set privacy.clip=0.03, the middle length, noise would be 30 times smaller"),
        ((0.0, 0.0, 0.0), 1.0, "Half of the rows have no gradient at all"),
    ],
)
def test_what_to_make_of_them_is_said_with_the_key(lengths: tuple[float, ...], clip: float, said: str) -> None:
    assert said in advice(lengths_of(*lengths, clip=clip))


def test_the_command_prints_them_and_leaves_no_store(federation: Federation) -> None:
    done = federation.command("data", "lengths", federation.file.name, "--rows", "4", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0 and (told["rows"], told["site"], told["clip"]) == (4, "a", 1.0)
    assert list(told["lengths"]) == ["0.1", "0.25", "0.5", "0.75", "0.9"]
    assert not list(federation.folder.glob("releases*"))
    plain = federation.command("data", "lengths", federation.file.name, "--rows", "4")
    assert "training rows of a: lengths of the gradients of" in plain.stdout and "privacy.clip is 1" in plain.stdout
