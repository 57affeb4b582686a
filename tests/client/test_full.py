"""Every weight of a text model trained at a site: private steps against the slow twin, the check before, what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from one_site import (
    CLIP,
    NEGLIGIBLE,
    RATE,
    drawn_batches,
    drawn_noises,
    make_experiment,
    make_job,
    make_plan,
    make_request,
    trained_parameters,
)
from reference import AdamW, Sgd, norm_of, one_gradient, private_steps
from torch import Tensor

from fedrelease.client import private_step
from fedrelease.client.correction import Correction
from fedrelease.client.directives import frozen
from fedrelease.client.selftest import check_gradients
from fedrelease.client.site import Site, train_site
from fedrelease.client.training import Job, train
from fedrelease.data.tokens import TokenRows
from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter, Model, Training
from fedrelease.models import booked_layers, bookkeeping
from fedrelease.models.bases import open_base
from fedrelease.models.booked_kinds import KINDS
from fedrelease.models.classifier import TextClassifier, build_classifier, load_state, trainable_state
from fedrelease.models.prefix import with_prefix

FULL = Model(adapter=Adapter(kind="full"))
ONE_STEP = Training(batch_size=24, micro_batch=24, lr=1.0, optimizer="sgd")
NOBODY = 1e-12


def full_model(base: Path) -> TextClassifier:
    model = build_classifier(open_base(str(base), cache=base), FULL, seed=3)
    load_state(model, state_of(model))
    return model


def state_of(model: TextClassifier) -> dict[str, Tensor]:
    """Random, with matrices of 0.3 and all else about 1: hidden states keep their size."""
    numbers = torch.Generator().manual_seed(5)
    return {
        name: 0.3 * torch.randn(t.shape, generator=numbers) + (name.endswith("LayerNorm.weight"))
        for name, t in trainable_state(model).items()
    }


@pytest.fixture
def model(tiny_base: Path) -> TextClassifier:
    return full_model(tiny_base)


def moved(model: TextClassifier, job: Job) -> dict[str, Tensor]:
    before = state_of(model)
    load_state(model, before)
    train(model, job)
    return {name: value - before[name] for name, value in trainable_state(model).items()}


def test_every_weight_that_logits_depend_on_is_in_the_state_by_the_bases_own_names(model: TextClassifier) -> None:
    own = {name for name, _ in model.encoder.named_parameters() if "pooler" not in name}
    assert set(trainable_state(model)) == own | {"head.bias", "head.weight"}
    assert {"embeddings.word_embeddings.weight", "encoder.layer.1.attention.self.key.bias"} < own


@pytest.mark.parametrize("micro_batch", [1, 3, 100])
@pytest.mark.parametrize(("optimizer", "pull"), [("adamw", 0.0), ("sgd", 0.0), ("sgd", 5.0)])
def test_private_steps_equal_the_slow_twin(
    model: TextClassifier, tiny_base: Path, rows: TokenRows, optimizer: str, pull: float, micro_batch: int
) -> None:
    training = Training(batch_size=8, micro_batch=micro_batch, lr=0.01, optimizer=optimizer)
    job = make_job(rows, training, make_plan(len(rows)), steps=3)
    train(model, replace(job, correction=Correction(pull=pull)))
    twin = full_model(tiny_base).eval()
    parameters = trained_parameters(twin)
    private_steps(
        twin,
        parameters,
        rows,
        batches=drawn_batches(rows, steps=3),
        noises=drawn_noises(parameters, steps=3),
        clip=CLIP,
        expected_batch=RATE * 24,
        optimizer=AdamW(0.01) if optimizer == "adamw" else Sgd(0.01),
        pull=pull,
    )
    for name, expected in trainable_state(twin).items():
        found = trainable_state(model)[name]
        assert not torch.equal(found, state_of(twin)[name])
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("row", range(4))
def test_no_example_moves_the_state_by_more_than_the_clip(model: TextClassifier, rows: TokenRows, row: int) -> None:
    length = norm_of(one_gradient(model.eval(), trained_parameters(model), rows, row))
    alone = rows.chosen(torch.tensor([row]))
    for share, expected in ((0.25, 0.25), (4.0, 1.0)):
        plan = make_plan(1, clip=length * share, noise=NEGLIGIBLE, rate=1.0)
        found = norm_of(list(moved(model, make_job(alone, ONE_STEP, plan, steps=1)).values()))
        assert found <= length * share * (1 + 1e-5)
        assert found == pytest.approx(length * expected, rel=1e-3)


def test_one_row_more_changes_the_sum_by_at_most_the_clip(model: TextClassifier, rows: TokenRows) -> None:
    plan = make_plan(24, clip=0.1, noise=NEGLIGIBLE, rate=1.0)
    whole = moved(model, make_job(rows, ONE_STEP, plan, steps=1))
    less = moved(model, make_job(rows.chosen(torch.arange(23)), ONE_STEP, plan, steps=1))
    assert norm_of([24 * (whole[name] - less[name]) for name in whole]) <= 0.1 * (1 + 1e-3)


def test_an_empty_batch_steps_with_noise_alone(model: TextClassifier, rows: TokenRows) -> None:
    parameters = trained_parameters(model)
    before = [parameter.detach().clone() for parameter in parameters]
    plan = replace(make_plan(24, rate=NOBODY), batch_size=4.0)
    assert train(model, make_job(rows, ONE_STEP, plan, steps=1)) == 1
    (noises,) = drawn_noises(parameters, steps=1)
    for start, parameter, noise in zip(before, parameters, noises, strict=True):
        torch.testing.assert_close(parameter.detach(), start - noise / 4, atol=1e-6, rtol=1e-5)


def test_an_example_whose_gradient_is_not_finite_counts_as_nothing(model: TextClassifier, rows: TokenRows) -> None:
    word = 4 + 8  # the first plain word; rows without it stay finite
    ill = [row for row in range(24) if word in rows.batch([row]).input_ids]
    assert 0 < len(ill) < 24
    plan, sound = make_plan(24, noise=NEGLIGIBLE, rate=1.0), [row for row in range(24) if row not in ill]
    expected = moved(model, make_job(rows.chosen(torch.tensor(sound)), ONE_STEP, plan, steps=1))
    state = state_of(model)
    broken = {**state, "embeddings.word_embeddings.weight": state["embeddings.word_embeddings.weight"].clone()}
    broken["embeddings.word_embeddings.weight"][word] = torch.nan
    load_state(model, broken)
    train(model, make_job(rows, ONE_STEP, plan, steps=1))
    for name, value in trainable_state(model).items():
        change = (value - state[name])[
            [place for place in range(len(value)) if "word_emb" not in name or place != word]
        ]
        wanted = expected[name][[place for place in range(len(value)) if "word_emb" not in name or place != word]]
        torch.testing.assert_close(change, wanted, atol=1e-5, rtol=0)


def test_rounds_on_a_resident_model_leave_nothing_behind(model: TextClassifier, rows: TokenRows) -> None:
    job = make_job(rows, Training(batch_size=8, micro_batch=3, lr=0.05), make_plan(24), steps=2)
    first, again = moved(model, job), moved(model, job)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not [value for value in model.parameters() if value.grad is not None or hasattr(value, "summed_grad")]


def test_a_plain_step_follows_the_mean_gradient(model: TextClassifier, rows: TokenRows) -> None:
    singly = [one_gradient(model.eval(), trained_parameters(model), rows, row) for row in range(24)]
    before = [parameter.detach().clone() for parameter in trained_parameters(model)]
    train(model, make_job(rows, ONE_STEP, None, steps=1))
    for place, parameter in enumerate(trained_parameters(model)):
        mean = sum(gradient[place] for gradient in singly) / 24
        torch.testing.assert_close(before[place] - parameter.detach(), mean, atol=2e-6, rtol=1e-4)


def test_nothing_is_kept_of_frozen_layers_since_there_are_none(model: TextClassifier, rows: TokenRows) -> None:
    assert model.frozen_layers == 0
    assert with_prefix(model, rows, key="k") is rows


def test_a_lora_factor_cannot_be_frozen_where_there_is_none(model: TextClassifier) -> None:
    with pytest.raises(ModelError, match="freezes what the model does not have"), frozen(model, "lora_A"):
        pass


def test_every_weight_in_bfloat16_is_refused(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match=r"what is trained is float32.*precision = \"float32\""):
        build_classifier(open_base(str(tiny_base), cache=tiny_base), replace(FULL, precision="bfloat16"), seed=3)


def test_a_model_that_is_right_passes_the_check_and_is_left_as_it_was(tiny_base: Path, rows: TokenRows) -> None:
    """Also the fresh one, whose head is zero."""
    fresh = build_classifier(open_base(str(tiny_base), cache=tiny_base), FULL, seed=3)
    before = trainable_state(fresh)
    check_gradients(fresh, rows)
    assert all(torch.equal(value, before[name]) for name, value in trainable_state(fresh).items())


PARTS = {
    "layer.1.attention.self.query.weight": torch.nn.Linear,
    "embeddings.LayerNorm.bias": torch.nn.LayerNorm,
    "embeddings.position_embeddings.weight": torch.nn.Embedding,
}


@pytest.mark.parametrize("part", ["squares", "sums"])
@pytest.mark.parametrize("fault", ["half", "nan"])
@pytest.mark.parametrize("name", PARTS)
def test_a_wrong_layer_is_named(
    model: TextClassifier, rows: TokenRows, monkeypatch: pytest.MonkeyPatch, name: str, fault: str, part: str
) -> None:
    own = next(value for other, value in model.named_parameters() if other.endswith(name))
    kind, factor = KINDS[PARTS[name]], 0.5 if fault == "half" else float("nan")
    inner = getattr(kind, part)

    def wrong(*given: object) -> dict[object, Tensor]:
        return {value: found * factor if value is own else found for value, found in inner(*given).items()}

    mutated = {**KINDS, PARTS[name]: replace(kind, **{part: wrong})}  # type: ignore[arg-type]  # the name of a field
    monkeypatch.setattr(bookkeeping, "KINDS", mutated)
    what = "lengths" if part == "squares" else "sums"
    with pytest.raises(ModelError, match=rf"{name} the {what} are wrong.*nothing was trained or charged"):
        check_gradients(model, rows)


def test_a_model_that_cannot_be_booked_is_charged_nothing(
    site: Site, tmp_path: Path, tiny_base: Path, model: TextClassifier
) -> None:
    model.layers[1].output.dense.bias = model.layers[0].output.dense.bias  # type: ignore[union-attr]
    request = make_request(replace(make_experiment(tmp_path, tiny_base), model=FULL))
    with pytest.raises(ModelError, match=r"share a trained parameter.*layer\.0\.output\.dense\.bias"):
        train_site(site, request, trainable_state(model), model)
    assert site.ledger.entries() == ()


def test_a_site_trains_every_weight_and_is_charged(
    site: Site, tmp_path: Path, tiny_base: Path, model: TextClassifier
) -> None:
    request = make_request(replace(make_experiment(tmp_path, tiny_base), model=FULL))
    before = trainable_state(model)
    answer, after = train_site(site, request, before, model)
    assert answer.receipt is not None
    assert len(site.ledger.entries()) == 1
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_clip_factors_are_opacus_own_and_nothing_for_what_is_not_finite() -> None:
    """0.5 / (2 + 1e-6); at most 1; no NaN."""
    found = private_step.clip_factors(torch.tensor([2.0, 0.1, 0.0, torch.inf, torch.nan]), 0.5)
    assert found.tolist() == pytest.approx([0.5 / 2.000001, 1.0, 1.0, 0.0, 0.0])
    assert booked_layers.CANCELLED > 0
