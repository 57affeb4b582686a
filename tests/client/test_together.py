"""Many tiny sites trained at once, against one site alone through Opacus' optimizer."""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedrelease.client import selftest_sums, together
from fedrelease.client.correction import Correction
from fedrelease.client.group import train_sites
from fedrelease.client.schedule import ABREAST
from fedrelease.client.selftest_sums import check_sums
from fedrelease.client.site import Site, train_site
from fedrelease.client.together import train_together
from fedrelease.client.training import Job, Seeds, train
from fedrelease.data.sites import open_site, prepare_sites
from fedrelease.errors import ModelError, PrivacyError
from fedrelease.experiment import Adapter, Data, Experiment, Federation, Model, Partition, Privacy, Training
from fedrelease.messages import Request
from fedrelease.models import stacked
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import load_state, trainable_state
from fedrelease.models.network import Network, build_network
from fedrelease.models.stacked import Part
from fedrelease.privacy import PrivacyPlan

SITES = 5
EXPERIMENT = Experiment(
    federation=Federation(evaluators=0),
    model=Model(
        base="mlp:784-16-8",
        task="image-classification",
        labels=tuple("0123456789"),
        adapter=Adapter(kind="full"),
    ),
    data=Data(source="digits", partition=Partition(by="virtual", sites=50, rows=23)),
    training=Training(batch_size=10, lr=0.05, head_lr=0.1),
)
PRIVATE = PrivacyPlan(
    unit="example",
    epsilon=8.0,
    delta=1e-5,
    clip=0.5,
    accountant="prv",
    sample_rate=10 / 23,
    batch_size=10.0,
    steps_per_round=4,
    rounds=2,
    noise_multiplier=0.7,
)
TRAININGS = {
    "sgd": replace(EXPERIMENT.training, optimizer="sgd"),
    "adamw": replace(EXPERIMENT.training, weight_decay=0.1, schedule="linear", warmup=0.3),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def model(cache: Path) -> Network:
    return build_network(open_base(EXPERIMENT.model.base, cache=cache), EXPERIMENT.model, seed=3)


def jobs(cache: Path, training: Training, plan: PrivacyPlan | None, count: int = SITES) -> list[Job]:
    base = open_base(EXPERIMENT.model.base, cache=cache)
    prepared = prepare_sites(EXPERIMENT, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=cache)
    return [
        Job(
            rows=open_site(prepared.folder / name).train,
            training=training,
            plan=plan,
            start=0,
            steps=4,
            total=8,
            seeds=Seeds(key=name, noise="seeded"),
        )
        for name in prepared.sites[:count]
    ]


def alone(model: Network, state: dict[str, Tensor], job: Job) -> dict[str, Tensor]:
    load_state(model, state)
    train(model, job)
    return trainable_state(model)


def far(found: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """The largest distance of a tensor, as a share of what it moved."""
    assert set(found) == set(expected)
    return max(float((found[name] - expected[name]).norm() / (expected[name] - start[name]).norm()) for name in found)


@pytest.mark.parametrize("optimizer", TRAININGS)
@pytest.mark.parametrize("plan", [None, PRIVATE], ids=["plain", "private"])
def test_each_site_ends_where_it_ends_alone(
    cache: Path, model: Network, optimizer: str, plan: PrivacyPlan | None
) -> None:
    todo, state = jobs(cache, TRAININGS[optimizer], plan), trainable_state(model)
    found = train_together(model, todo)
    assert all(torch.equal(value, trainable_state(model)[name]) for name, value in state.items())
    allowed = 1e-3 if optimizer == "adamw" else 1e-5  # Adam's division makes the rounding of a gradient near 0 a step
    assert all(far(found[place], alone(model, state, job), state) < allowed for place, job in enumerate(todo))


@pytest.mark.parametrize("plan", [None, PRIVATE], ids=["plain", "private"])
def test_each_site_is_pulled_to_where_it_began_as_it_is_alone(
    cache: Path, model: Network, plan: PrivacyPlan | None
) -> None:
    free, state = jobs(cache, TRAININGS["sgd"], plan), trainable_state(model)
    todo = [replace(job, correction=Correction(pull=3.0)) for job in free]
    found, unpulled = train_together(model, todo), train_together(model, free)
    assert all(far(found[place], alone(model, state, job), state) < 1e-5 for place, job in enumerate(todo))
    assert all(far(found[place], unpulled[place], state) > 1e-2 for place in range(len(todo)))


def test_a_group_follows_the_directives_as_each_site_does_alone(cache: Path, model: Network, tmp_path: Path) -> None:
    """Batched with a pull and a loss to tell; one by one where each has a variate or a head of its own."""
    base, state = open_base(EXPERIMENT.model.base, cache=cache), trainable_state(model)
    plain = replace(EXPERIMENT, privacy=Privacy(unit="none"), training=TRAININGS["sgd"])
    prepared = prepare_sites(plain, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=cache)
    asked: list[Mapping[str, float | str | bool]] = [
        {"proximal_mu": 3.0, "tell_loss": True},
        {"variate": "feddyn", "alpha": 0.5},
        {"private": "head"},
    ]
    for number, directives in enumerate(asked):
        request = Request(experiment=plain, version="0.1.1", round=1, base="b", directives=directives)
        rows = [open_site(prepared.folder / name) for name in prepared.sites[:3]]
        together_, alone_ = (
            [Site(data=data, home=tmp_path / f"{who}{number}" / data.name, noise="seeded") for data in rows]
            for who in ("group", "alone")
        )
        for site, found in zip(alone_, train_sites(together_, request, state, model), strict=True):
            assert not isinstance(found, Exception)
            answer, trained = train_site(site, request, state, model)
            assert found[0] == answer and ("loss" in answer.metrics) == ("tell_loss" in directives)
            alike_ = all(torch.equal(found[1][name], value) for name, value in trained.items())
            assert alike_ or far(found[1], trained, state) < 1e-5


def test_a_wish_that_no_site_of_a_group_can_follow_is_refused_for_each(
    cache: Path, model: Network, tmp_path: Path
) -> None:
    base, state = open_base(EXPERIMENT.model.base, cache=cache), trainable_state(model)
    prepared = prepare_sites(EXPERIMENT, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=cache)
    sites = [
        Site(data=open_site(prepared.folder / name), home=tmp_path / name, noise="seeded")
        for name in prepared.sites[:2]
    ]
    request = Request(experiment=EXPERIMENT, version="0.1.1", round=1, base="b", directives={})
    beside = {f"variate/{name}": value for name, value in state.items()}
    for wish, companions, error in (
        ({"momentum": 1.0}, {}, ModelError),
        ({}, beside, ModelError),
        ({"tell_loss": True}, {}, PrivacyError),  # the plan is private
    ):
        found = train_sites(sites, replace(request, directives=wish), state, model, companions)
        assert [type(one) for one in found] == [error, error]
        assert not any(site.ledger.entries() for site in sites)


def test_the_plain_gradient_of_each_site_is_clipped_on_its_own(cache: Path, model: Network) -> None:
    training = replace(EXPERIMENT.training, optimizer="sgd", grad_clip=0.3)
    todo, state = jobs(cache, training, None), trainable_state(model)
    found = train_together(model, todo)
    assert all(far(found[place], alone(model, state, job), state) < 1e-5 for place, job in enumerate(todo))


@pytest.mark.parametrize("plan", [None, PRIVATE], ids=["plain", "private"])
def test_no_bit_of_a_site_depends_on_who_is_trained_beside_it(
    cache: Path, model: Network, plan: PrivacyPlan | None
) -> None:
    todo = jobs(cache, TRAININGS["adamw"], plan, count=ABREAST + 8)
    all_at_once = train_together(model, todo)
    numbers = random.Random(5)
    for count in (1, 2, 7, 31, 32, 33, 40):
        order = numbers.sample(range(len(todo)), count)
        found = train_together(model, [todo[place] for place in order])
        for state, place in zip(found, order, strict=True):
            assert all(torch.equal(state[name], all_at_once[place][name]) for name in state)


def test_no_example_moves_a_site_further_than_the_clip(cache: Path, model: Network) -> None:
    """Without noise and with one example, a step of plain SGD is at most the rate times clip over the expected batch."""
    plan = replace(PRIVATE, noise_multiplier=1e-12, sample_rate=1.0, batch_size=1.0)
    training = replace(EXPERIMENT.training, optimizer="sgd", lr=1.0, head_lr=1.0)
    state = {name: 50 * value for name, value in trainable_state(model).items()}  # far from where gradients are small
    load_state(model, state)
    for job in jobs(cache, training, plan):
        one = replace(job, rows=job.rows.chosen(torch.tensor([0])), steps=1)
        moved = train_together(model, [one])[0]
        length = float(torch.cat([(moved[name] - state[name]).flatten() for name in state]).norm())
        assert length == pytest.approx(plan.clip, rel=1e-3) or length < plan.clip


def test_an_example_whose_gradient_is_not_finite_counts_as_nothing(cache: Path, model: Network) -> None:
    plan = replace(PRIVATE, noise_multiplier=1e-12, sample_rate=1.0)
    job = replace(jobs(cache, TRAININGS["sgd"], plan)[0], steps=1)
    broken = replace(job, rows=job.rows.chosen(torch.tensor([0, 1, 2])))
    broken.rows._features = job.rows._features.clone()  # type: ignore[union-attr]
    broken.rows._features[broken.rows._places[1]] = torch.inf  # type: ignore[union-attr]
    whole = replace(job, rows=job.rows.chosen(torch.tensor([0, 2])))
    found, expected = train_together(model, [broken])[0], train_together(model, [whole])[0]
    assert all(bool(torch.isfinite(value).all()) for value in found.values())
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in found)


def test_an_empty_draw_still_adds_noise_and_steps(cache: Path, model: Network) -> None:
    nobody = replace(PRIVATE, sample_rate=1e-9)
    todo, state = jobs(cache, TRAININGS["sgd"], nobody), trainable_state(model)
    found = train_together(model, todo)
    for place, job in enumerate(todo):
        assert far(found[place], alone(model, state, job), state) < 1e-5
        assert all(not torch.equal(found[place][name], state[name]) for name in state)


@pytest.mark.parametrize("wrong", ["lengths", "sums"])
def test_a_machine_whose_sums_are_wrong_does_not_train(
    cache: Path, model: Network, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs(cache, TRAININGS["sgd"], PRIVATE)[0]
    if wrong == "lengths":
        monkeypatch.setattr(selftest_sums, "gradient_lengths", lambda parts: 1.01 * stacked.gradient_lengths(parts))
    else:

        def halved(parts: list[Part], scales: Tensor) -> None:
            stacked.form_sums([replace(parts[0], back=parts[0].back / 2), *parts[1:]], scales)

        monkeypatch.setattr(selftest_sums, "form_sums", halved)
    with pytest.raises(ModelError, match="length of gradients" if wrong == "lengths" else r"gradient of hidden\.0"):
        check_sums(model, job)


def test_a_machine_whose_sums_are_right_is_asked_once(
    cache: Path, model: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, state = jobs(cache, TRAININGS["sgd"], PRIVATE)[0], trainable_state(model)
    check_sums(model, job)
    assert all(torch.equal(value, trainable_state(model)[name]) for name, value in state.items())
    monkeypatch.setattr(selftest_sums, "noted", None)
    check_sums(model, job)


def test_gradients_that_are_summed_hang_on_no_graph(
    cache: Path, model: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would hold it and be held by it, and nobody frees that circle."""
    seen: list[bool] = []

    def watched(parts: list[Part], scales: Tensor) -> None:
        stacked.form_sums(parts, scales)
        seen.extend(part.layer.weight.grad.requires_grad for part in parts if part.layer.weight.grad is not None)
        seen.append(scales.requires_grad)

    monkeypatch.setattr(together, "form_sums", watched)
    train_together(model, jobs(cache, TRAININGS["sgd"], PRIVATE, count=2))
    assert seen and not any(seen)
