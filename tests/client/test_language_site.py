"""A language model at a site: gradients by example, private training, and what is told of a hold-out."""

from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_site import make_request
from tiny import language_experiment, language_rows, make_language_base, make_rows

from fedrelease.client.selftest import check_gradients
from fedrelease.client.site import Site, evaluate_site, train_site
from fedrelease.data.sites import open_site, prepare_sites
from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter, Experiment, Model
from fedrelease.experiment_file import load_experiment
from fedrelease.experiment_sections import RIGHT
from fedrelease.models import vocabulary
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import load_state, trainable_state
from fedrelease.models.evaluation import bounded, mean_loss
from fedrelease.models.tasks import Classifier, build_model
from fedrelease.tasks.causal_lm import CAUSAL_LM, MOST_NATS
from fedrelease.tasks.contract import Judged

ADAPTERS = {
    "attention": Adapter(rank=2, layers="last:1"),
    "all-linear": Adapter(rank=2, layers="all", targets="all-linear"),
    "core": Adapter(kind="lora-sb", rank=2, layers="all"),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("language")
    return {kind: make_language_base(folder / kind, kind) for kind in ("gpt2", "llama")}


def built(base: Path, adapter: Adapter) -> Classifier:
    return build_model(open_base(str(base), cache=base), Model(task="causal-lm", adapter=adapter), seed=3)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_gradients_by_example_are_those_of_one_piece_at_a_time_through_plain_layers(
    bases: dict[str, Path], tmp_path: Path, kind: str, adapter: str
) -> None:
    rows = language_rows(tmp_path / "rows.safetensors", bases[kind], count=6)
    check_gradients(built(bases[kind], ADAPTERS[adapter]), rows)


def test_a_wrong_gradient_of_the_slices_is_found_before_anything_is_trained(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = language_rows(tmp_path / "rows.safetensors", bases["llama"], count=6)
    plain = vocabulary._Sliced.backward
    monkeypatch.setattr(vocabulary._Sliced, "backward", lambda ctx, *out: (plain(ctx, *out)[0] * 1.01, *[None] * 3))
    with pytest.raises(ModelError, match="gradients by example"):
        check_gradients(built(bases["llama"], ADAPTERS["attention"]), rows)


def test_every_weight_of_a_language_model_cannot_be_told_apart_by_example(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    """Experiments refuse it; so does the site, whatever it is sent."""
    rows = language_rows(tmp_path / "rows.safetensors", bases["gpt2"], count=6)
    with pytest.raises(ModelError, match="two layers share a trained parameter"):
        check_gradients(built(bases["gpt2"], Adapter(kind="full")), rows)


def judged_of(losses: list[list[float]]) -> Judged:
    items = [(row, nats) for row, own in enumerate(losses) for nats in own]
    loss = torch.tensor([nats for _, nats in items])
    return Judged(
        row=torch.tensor([row for row, _ in items], dtype=torch.int64),
        truth=torch.full((len(items),), RIGHT),
        predicted=(loss < 1).to(torch.int64),
        loss=loss,
        sums=torch.tensor([[sum(own)] for own in losses], dtype=torch.float64).view(len(losses), 1),
    )


nats = st.floats(0, 80, width=32)
rows_of_losses = st.lists(st.lists(nats, min_size=1, max_size=6), max_size=4)


@settings(max_examples=60, deadline=None)
@given(rows_of_losses, st.lists(nats, min_size=1, max_size=9))
def test_one_row_more_moves_what_is_told_by_at_most_what_noise_is_made_for(
    others: list[list[float]], more: list[float]
) -> None:
    both = (judged_of(rows) for rows in (others, [*others, more]))
    before, after = (bounded(judged, classes=2, bound=MOST_NATS, sums=1) for judged in both)
    counts = ((after.matrix - before.matrix) ** 2).sum()
    sums = ((after.sums[0] - (before.sums[0] if before.sums else 0.0)) / MOST_NATS) ** 2
    assert (counts + sums) ** 0.5 <= CAUSAL_LM.sensitivity + 1e-6


def experiment_of(folder: Path, base: Path, **settings: str) -> Experiment:
    rows = make_rows(folder / "rows.csv", sites=("a", "b"), rows=16)
    file = folder / "tiny.toml"
    file.write_text(language_experiment(base, rows, **settings), encoding="utf-8")
    return load_experiment(file)


def site_of(experiment: Experiment, folder: Path) -> Site:
    base = open_base(experiment.model.base, cache=folder)
    prepared = prepare_sites(
        experiment, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=folder / "cache"
    )
    return Site(data=open_site(prepared.folder / "a"), home=folder / "home", noise="seeded")


def test_a_site_trains_privately_and_tells_noised_counts_of_tokens(bases: dict[str, Path], tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path, bases["llama"], privacy='epsilon = 8.0\naccountant = "rdp"')
    site, model = site_of(experiment, tmp_path), built(bases["llama"], experiment.model.adapter)
    state = trainable_state(model)
    answer, trained = train_site(site, make_request(experiment), state, model)
    assert answer.receipt is not None and answer.receipt.epsilon_total <= 8.0
    assert trained.keys() == state.keys() and any(not torch.equal(trained[name], state[name]) for name in state)
    told = evaluate_site(site, make_request(experiment), trained, model)
    assert told.sums is not None and len(told.sums) == 1 and told.loss is None and told.items is None
    assert CAUSAL_LM.metrics(numpy.array(told.confusion), told.sums).keys() >= {"accuracy", "perplexity"}


def test_every_weight_without_privacy_learns_and_reads_and_writes_by_one_table(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    experiment = experiment_of(tmp_path, bases["llama"], privacy='unit = "none"', training="epochs = 10")
    site, model = site_of(experiment, tmp_path), built(bases["llama"], Adapter(kind="full"))
    state = trainable_state(model)
    before = mean_loss(model, site.data.train)
    _, trained = train_site(site, make_request(experiment), state, model)
    load_state(model, trained)
    assert mean_loss(model, site.data.train) < before - 0.2
    assert model.head.weight is model.get_parameter("encoder.embed_tokens.weight")
