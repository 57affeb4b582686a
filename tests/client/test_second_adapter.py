"""A site with a second pair of factors: private steps against the slow twin, what is sent, and what it starts from again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from one_site import (
    CLIP,
    RATE,
    drawn_batches,
    drawn_noises,
    make_experiment,
    make_job,
    make_plan,
    make_request,
    random_state,
    tiny_model,
    trained_parameters,
)
from reference import Sgd, private_steps
from torch import Tensor

from fedrelease.client.site import Site, evaluate_site, train_site
from fedrelease.client.training import train
from fedrelease.data.tokens import TokenRows
from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter, Training
from fedrelease.messages import Request
from fedrelease.models.classifier import TextClassifier, load_state, trainable_state
from fedrelease.private_part import private_names
from fedrelease.update import read_state

PRIVATE = Training(batch_size=8, micro_batch=3, lr=0.05, optimizer="sgd")
KEEP = {"private": "second-adapter"}
OWN = 3


@pytest.fixture
def model(tiny_base: Path) -> TextClassifier:
    return tiny_model(tiny_base, own_rank=OWN)


def asked(folder: Path, base: Path, round: int = 1, *, unit: str = "none") -> Request:
    """One step a round over all of the few rows."""
    experiment = make_experiment(folder, base, rounds=4, unit=unit)
    training = replace(experiment.training, optimizer="sgd", max_steps=1, lr=0.5, batch_size=64)
    adapter = Adapter(rank=2, layers="last:1", own_rank=OWN)
    experiment = replace(experiment, training=training, model=replace(experiment.model, adapter=adapter))
    return replace(make_request(experiment, round=round, version=f"0.1.{round}"), directives=KEEP)


def kept(site: Site, request: Request) -> dict[str, Tensor]:
    (folder,) = site.home.glob("private/second-adapter-*")
    return read_state(folder / f"{request.version}.safetensors")


def test_private_steps_with_two_pairs_equal_the_slow_twin(
    model: TextClassifier, tiny_base: Path, rows: TokenRows
) -> None:
    """Each row's gradient over both pairs and the head is clipped as one, and all of them get noise."""
    load_state(model, random_state(model, seed=5))
    train(model, make_job(rows, PRIVATE, make_plan(len(rows)), steps=4))
    twin = tiny_model(tiny_base, own_rank=OWN).eval()
    parameters, began = trained_parameters(twin), trainable_state(twin)
    private_steps(
        twin,
        parameters,
        rows,
        batches=drawn_batches(rows, steps=4),
        noises=drawn_noises(parameters, steps=4),
        clip=CLIP,
        expected_batch=RATE * 24,
        optimizer=Sgd(0.05),
    )
    assert len(private_names(began, "second-adapter")) == 4
    for name, expected in trainable_state(twin).items():
        assert not torch.equal(expected, began[name])
        torch.testing.assert_close(trainable_state(model)[name], expected, atol=1e-5, rtol=0)


def test_a_site_trains_both_pairs_together_keeps_its_own_and_sends_what_came_in_its_place(
    site: Site, model: TextClassifier, tmp_path: Path, tiny_base: Path
) -> None:
    """Two rounds beside a site that keeps nothing and is sent, in each, what this one is said to start from."""
    state = random_state(model, seed=11)
    own, names = dict(state), private_names(state, "second-adapter")
    for round in (1, 2):
        request = asked(tmp_path, tiny_base, round)
        _, plain = train_site(replace(site, home=tmp_path / "plain"), replace(request, directives={}), own, model)
        _, sent = train_site(site, request, state, model)
        assert all(torch.equal(sent[name], state[name]) for name in names)
        assert all(float((plain[name] - own[name]).abs().max()) > 1e-4 for name in names)
        assert kept(site, request).keys() == set(names)
        for name in state.keys() - set(names):
            torch.testing.assert_close(sent[name], plain[name], atol=1e-6, rtol=0)
        for name, tensor in kept(site, request).items():
            torch.testing.assert_close(tensor, plain[name], atol=1e-6, rtol=0)
        own = {**state, **kept(site, request)}


@pytest.mark.parametrize("unit", ["none", "example"])
def test_a_seeded_site_that_is_asked_again_answers_the_same_bits_and_pays_once(
    site: Site, model: TextClassifier, tmp_path: Path, tiny_base: Path, unit: str
) -> None:
    state, request = random_state(model, seed=11), asked(tmp_path, tiny_base, unit=unit)
    first, again = (train_site(site, request, state, model) for _ in range(2))
    assert first[0] == again[0] and all(torch.equal(first[1][name], again[1][name]) for name in state)
    assert len(site.ledger.entries()) == (1 if unit == "example" else 0)


def test_what_the_own_pair_is_worth_is_told_beside_the_release(
    site: Site, model: TextClassifier, tmp_path: Path, tiny_base: Path
) -> None:
    """Before the site has trained it is the release's accuracy itself."""
    state, request = random_state(model, seed=11), asked(tmp_path, tiny_base)
    new = evaluate_site(site, request, state, model)
    train_site(site, request, state, model)
    answer = evaluate_site(site, request, state, model)
    assert new.confusion == answer.confusion and new.confusion is not None
    right = sum(new.confusion[place][place] for place in (0, 1))
    assert new.metrics == {"accuracy_private": right / len(site.data.holdout)}
    assert answer.metrics["accuracy_private"] > new.metrics["accuracy_private"]


def test_a_model_without_a_second_pair_is_refused_by_the_key(site: Site, tmp_path: Path, tiny_base: Path) -> None:
    model = tiny_model(tiny_base)
    with pytest.raises(ModelError, match=r"second-adapter.*model\.adapter\.own_rank"):
        train_site(site, asked(tmp_path, tiny_base, unit="example"), trainable_state(model), model)
    assert site.ledger.entries() == ()
