"""Training with options against slow twins: one row at a time, plain layers, losses written out by hand."""

from collections.abc import Callable
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
)
from one_site import trained_parameters as parameters_of
from reference import Sgd, norm_of
from torch import Tensor

from fedrelease.client.aim import Aim, aimed
from fedrelease.client.augmentation import Fill, without_tokens
from fedrelease.client.draws import Draws
from fedrelease.client.dropout import dropping
from fedrelease.client.group import _one_by_one
from fedrelease.client.training import Job, train
from fedrelease.data.tokens import Batch, TokenRows, save_rows
from fedrelease.data.vectors import VectorRows
from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter, Model, Training
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier, load_state, trainable_state
from fedrelease.models.network import Network
from fedrelease.models.per_example import plain_layers
from fedrelease.models.prefix import with_prefix
from fedrelease.tasks.contract import AnyBatch
from fedrelease.tasks.loss_options import LossOptions

SLOW = Training(batch_size=8, micro_batch=3, lr=0.05, optimizer="sgd")
STEPS = 3
WEIGHTS = torch.tensor([0.5, 2.0])
FILL = Fill(token=1, special=torch.tensor([0, 1, 2, 3]))
Gradient = Callable[[int, int], list[Tensor]]


def masked(batch: AnyBatch, draws: object) -> AnyBatch:
    assert isinstance(batch, Batch)
    return without_tokens(batch, draws, share=0.4, fill=FILL)  # type: ignore[arg-type]  # as the aim calls it


def job_of(rows: TokenRows, aim: Aim, *, private: bool, micro_batch: int = 3, key: str = "k") -> Job:
    plan = make_plan(len(rows)) if private else None
    training = Training(batch_size=8, micro_batch=micro_batch, lr=0.05, optimizer="sgd")
    job = make_job(rows, training, plan, steps=STEPS, key=key)
    return Job(**{**vars(job), "aim": aim})


def trained(model: TextClassifier, job: Job) -> dict[str, Tensor]:
    load_state(model, random_state(model, seed=5))
    train(model, job)
    return trainable_state(model)


def differs(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one)


def twin_steps(parameters: list[torch.nn.Parameter], rows: TokenRows, gradient: Gradient) -> None:
    """Abadi et al. (2016): clip each, add up, add noise, divide, step."""
    optimizer = Sgd(0.05)
    drawn = zip(drawn_batches(rows, steps=STEPS), drawn_noises(parameters, steps=STEPS), strict=True)
    for step, (batch, noise) in enumerate(drawn):
        total = [part.clone() for part in noise]
        for row in batch:
            found = gradient(row, step)
            factor = min(1.0, CLIP / norm_of(found))
            total = [before + factor * part for before, part in zip(total, found, strict=True)]
        optimizer.step(parameters, [part / (RATE * len(rows)) for part in total])


def test_private_steps_with_smoothed_labels_and_weights_equal_the_slow_twin(
    model: TextClassifier, tiny_base: Path, rows: TokenRows
) -> None:
    options = LossOptions(smoothing=0.2, weights=WEIGHTS)
    found = trained(model, job_of(rows, Aim(loss=options), private=True))
    twin = tiny_model(tiny_base).eval()
    parameters = parameters_of(twin)

    def gradient(row: int, step: int) -> list[Tensor]:
        batch = rows.batch([row])
        label = int(batch.labels)
        with plain_layers(twin):
            nats = -torch.log_softmax(twin(batch.input_ids, batch.attention_mask)[0], 0)
        loss = WEIGHTS[label] * (0.8 * nats[label] + 0.2 * nats.mean())
        return list(torch.autograd.grad(loss, parameters))

    twin_steps(parameters, rows, gradient)
    for name, expected in trainable_state(twin).items():
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=0)
    assert differs(found, trained(model, job_of(rows, Aim(), private=True)))


@pytest.mark.parametrize("aim", [Aim(dropout=0.3), Aim(change=masked), Aim(dropout=0.3, checkpointing=True)])
def test_private_steps_on_rows_that_change_equal_those_of_one_row_at_a_time(
    model: TextClassifier, tiny_base: Path, rows: TokenRows, aim: Aim
) -> None:
    found = trained(model, job_of(rows, aim, private=True))
    twin = tiny_model(tiny_base).train()
    parameters = parameters_of(twin)
    slow = Aim(loss=aim.loss, change=aim.change, dropout=aim.dropout)

    def gradient(row: int, step: int) -> list[Tensor]:
        with aimed(twin, rows, slow, key="k") as losses, plain_layers(twin):  # dropout finds our own layers
            return list(torch.autograd.grad(losses(torch.tensor([row]), step), parameters))

    twin_steps(parameters, rows, gradient)
    for name, expected in trainable_state(twin).items():
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=0)
    assert differs(found, trained(model, job_of(rows, Aim(), private=True)))


def test_private_steps_of_every_weight_with_dropout_equal_those_of_one_row_at_a_time(
    tiny_base: Path, rows: TokenRows
) -> None:
    """Books are kept of all layers; the base's own dropout layers drop."""

    def made() -> TextClassifier:
        whole = Model(adapter=Adapter(kind="full"))
        found = build_classifier(open_base(str(tiny_base), cache=tiny_base), whole, seed=3).train()
        load_state(found, {name: value + 0.05 for name, value in trainable_state(found).items()})
        return found

    model, twin, aim = made(), made(), Aim(dropout=0.3)
    train(model, job_of(rows, aim, private=True))
    parameters = parameters_of(twin)

    def gradient(row: int, step: int) -> list[Tensor]:
        with aimed(twin, rows, aim, key="k") as losses, plain_layers(twin):
            return list(torch.autograd.grad(losses(torch.tensor([row]), step), parameters))

    twin_steps(parameters, rows, gradient)
    found = trainable_state(model)
    for name, expected in trainable_state(twin).items():
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=0)


def test_a_small_network_drops_between_its_layers_and_never_its_pixels(tmp_path: Path) -> None:
    model = Network((6, 50, 4), 3).train()
    model.draw(3)
    save_rows(
        tmp_path / "rows.safetensors", {"features": torch.ones(2, 6), "labels": torch.zeros(2, dtype=torch.int64)}
    )
    seen: dict[str, Tensor] = {}
    with torch.no_grad(), aimed(model, VectorRows(tmp_path / "rows.safetensors"), Aim(dropout=0.5), key="k") as losses:
        for name, layer in (("first", model.hidden[0]), ("second", model.hidden[1])):
            layer.register_forward_hook(lambda module, given, out, name=name: seen.update({name: given[0]}))
        losses(torch.tensor([0, 1]), 0)
    whole = torch.relu(model.hidden[0](torch.ones(2, 6)).detach())
    assert torch.equal(seen["first"], torch.ones(2, 6))
    kept = seen["second"] != 0
    torch.testing.assert_close(seen["second"][kept], 2 * whole[kept])
    assert 0 < int(kept.sum()) < int((whole != 0).sum())


def test_sites_whose_losses_or_rows_differ_train_one_by_one(tiny_base: Path, tmp_path: Path) -> None:
    request = make_request(make_experiment(tmp_path, tiny_base))
    assert not _one_by_one(request)
    experiment = replace(request.experiment, training=Training(dropout=0.1))
    assert _one_by_one(replace(request, experiment=experiment))


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("aim", [Aim(dropout=0.3), Aim(change=masked)])
def test_what_is_drawn_repeats_and_follows_the_question_and_not_the_micro_batch(
    model: TextClassifier, rows: TokenRows, aim: Aim, private: bool
) -> None:
    first = trained(model, job_of(rows, aim, private=private))
    assert not differs(first, trained(model, job_of(rows, aim, private=private)))
    for name, value in trained(model, job_of(rows, aim, private=private, micro_batch=50)).items():
        torch.testing.assert_close(value, first[name], atol=1e-5, rtol=0)
    assert differs(first, trained(model, job_of(rows, aim, private=private, key="other")))


def test_dropout_is_off_in_evaluation_and_leaves_nothing_behind(model: TextClassifier, rows: TokenRows) -> None:
    batch, some = rows.batch([0, 1]), torch.tensor([0, 1])
    before = model.eval()(*batch.inputs)
    with torch.no_grad(), aimed(model, rows, Aim(dropout=0.5), key="k") as losses:
        assert float(losses(some, 0)) == float(losses(some, 1))
        model.train()
        assert float(losses(some, 0)) != float(losses(some, 1))
    assert torch.equal(model(*batch.inputs), before)


def test_kept_prefixes_stay_right_with_dropout(model: TextClassifier, rows: TokenRows, tiny_base: Path) -> None:
    carried = with_prefix(model, rows, key="x")
    assert isinstance(carried, TokenRows) and carried.batch([0]).prefix is not None
    aim = Aim(dropout=0.3)
    found = trained(model, job_of(carried, aim, private=False))
    for name, value in trained(model, job_of(rows, aim, private=False)).items():
        torch.testing.assert_close(value, found[name], atol=1e-5, rtol=0)


def test_dropped_numbers_are_zero_and_the_mean_stays(model: TextClassifier) -> None:
    with dropping(model, 0.25) as masks:
        masks.draws = Draws(key="k", step=0, rows=torch.arange(4))
        dropped = masks("here", torch.ones(4, 50, 100))
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float((dropped == 0).float().mean()) == pytest.approx(
        0.25, abs=0.01
    )  # 20,000 draws: four deviations are 0.012
    assert not torch.equal(dropped[0], dropped[1])


def test_a_model_without_factors_heads_and_dropout_layers_has_no_place_for_dropout() -> None:
    empty = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(ModelError, match="no place for dropout"), dropping(empty, 0.1):
        pass


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("kind", ["lora", "lora-sb", "full"])
def test_layers_that_are_computed_again_give_the_same_gradients(
    kind: str, private: bool, tiny_base: Path, rows: TokenRows
) -> None:
    adapter = Adapter(kind=kind, rank=2, layers="all") if kind != "full" else Adapter(kind=kind)
    model = build_classifier(open_base(str(tiny_base), cache=tiny_base), Model(adapter=adapter), seed=3)
    start = {name: value + 0.05 for name, value in trainable_state(model).items()}

    def ended(again: bool) -> dict[str, Tensor]:
        load_state(model, start)
        train(model, job_of(rows, Aim(checkpointing=again), private=private))
        return trainable_state(model)

    plain, saved = ended(False), ended(True)
    assert differs(plain, start)
    for name, value in plain.items():
        torch.testing.assert_close(saved[name], value, atol=1e-6, rtol=0)
