"""Local training: private steps against the slow twin, and what plain training promises."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from one_site import (
    CLIP,
    NEGLIGIBLE,
    NOISE,
    RATE,
    drawn_batches,
    drawn_noises,
    make_job,
    make_plan,
    random_state,
    tiny_model,
    trained_parameters,
)
from reference import AdamW, Sgd, norm_of, one_gradient, private_steps
from torch import Tensor

from fedrelease.client.directives import frozen
from fedrelease.client.schedule import rate_factor, steps_per_round
from fedrelease.client.training import Job, train
from fedrelease.data.tokens import TokenRows, save_rows
from fedrelease.experiment import Training
from fedrelease.models.classifier import TextClassifier, load_state, trainable_state

PRIVATE = Training(batch_size=8, micro_batch=3, lr=0.05, optimizer="sgd")
ONE_STEP = Training(batch_size=24, micro_batch=24, lr=1.0, optimizer="sgd")
NOBODY = 1e-12


def trained(model: TextClassifier, job: Job) -> dict[str, Tensor]:
    load_state(model, random_state(model, seed=5))
    train(model, job)
    return trainable_state(model)


def moved(model: TextClassifier, job: Job) -> list[Tensor]:
    before = random_state(model, seed=5)
    return [value - before[name] for name, value in trained(model, job).items()]


def only_row(rows: TokenRows, row: int, tmp_path: Path) -> TokenRows:
    one = rows.batch([row])
    tensors = {
        "input_ids": one.input_ids[0].to(torch.int32),
        "offsets": torch.tensor([0, one.input_ids.shape[1]]),
        "labels": one.labels,
        "pad_id": torch.tensor(0),
    }
    save_rows(tmp_path / f"{row}.safetensors", tensors)
    return TokenRows(tmp_path / f"{row}.safetensors")


def assert_clean(model: TextClassifier) -> None:
    assert not any(getattr(module, "record", False) for module in model.modules())
    for parameter in model.parameters():
        assert parameter.grad is None
        assert vars(parameter).keys() <= {"_is_hf_initialized"}  # transformers' own mark


@pytest.mark.parametrize("micro_batch", [1, 3, 100])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_private_steps_equal_the_slow_twin(
    model: TextClassifier, tiny_base: Path, rows: TokenRows, optimizer: str, micro_batch: int
) -> None:
    training = Training(
        batch_size=8, micro_batch=micro_batch, lr=0.02, optimizer=optimizer, weight_decay=0.1 * (optimizer == "adamw")
    )
    plan = make_plan(len(rows))
    found = trained(model, make_job(rows, training, plan, steps=4))
    twin = tiny_model(tiny_base).eval()
    parameters = trained_parameters(twin)
    private_steps(
        twin,
        parameters,
        rows,
        batches=drawn_batches(rows, steps=4),
        noises=drawn_noises(parameters, steps=4),
        clip=CLIP,
        expected_batch=RATE * 24,
        optimizer=AdamW(0.02, 0.1) if optimizer == "adamw" else Sgd(0.02),
    )
    for name, expected in trainable_state(twin).items():
        assert not torch.equal(found[name], random_state(twin, seed=5)[name])
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_private_steps_with_a_frozen_factor_equal_the_slow_twin(
    model: TextClassifier, tiny_base: Path, rows: TokenRows, factor: str
) -> None:
    """The frozen factor has no part in an example's norm, and no noise."""
    load_state(model, random_state(model, seed=5))
    with frozen(model, factor):
        train(model, make_job(rows, PRIVATE, make_plan(len(rows)), steps=4))
    found = trainable_state(model)
    twin = tiny_model(tiny_base).eval()
    left = {id(value) for name, value in twin.named_parameters() if factor in name}
    parameters = [value for value in trained_parameters(twin) if id(value) not in left]
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
    for name, expected in trainable_state(twin).items():
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("row", range(4))
def test_no_example_moves_the_state_by_more_than_the_clip(
    model: TextClassifier, rows: TokenRows, tmp_path: Path, row: int
) -> None:
    length = norm_of(one_gradient(model.eval(), trained_parameters(model), rows, row))
    alone = only_row(rows, row, tmp_path)
    tight = moved(model, make_job(alone, ONE_STEP, make_plan(1, clip=length / 4, noise=NEGLIGIBLE, rate=1.0), steps=1))
    loose = moved(model, make_job(alone, ONE_STEP, make_plan(1, clip=length * 4, noise=NEGLIGIBLE, rate=1.0), steps=1))
    assert norm_of(tight) <= length / 4 * (1 + 1e-5)
    assert norm_of(tight) == pytest.approx(length / 4, rel=1e-3)
    assert norm_of(loose) == pytest.approx(length, rel=1e-3)


def test_the_sum_is_divided_by_the_expected_batch_and_not_by_who_was_drawn(
    model: TextClassifier, rows: TokenRows
) -> None:
    plan = make_plan(24, noise=NEGLIGIBLE, rate=1.0)
    full = moved(model, make_job(rows, ONE_STEP, plan, steps=1))
    halved = moved(model, make_job(rows, ONE_STEP, replace(plan, batch_size=48.0), steps=1))
    for one, other in zip(full, halved, strict=True):
        torch.testing.assert_close(one, 2 * other, atol=1e-6, rtol=1e-4)


def test_noise_has_the_deviation_of_the_plan(model: TextClassifier, rows: TokenRows) -> None:
    """Nobody is drawn, so a step of rate 1 moves every number by -noise / 0.25: deviation 0.7 * 0.5 / 0.25 = 1.4."""
    plan = replace(make_plan(24, rate=NOBODY), batch_size=0.25)
    for noise in ("seeded", "secure"):
        jobs = [make_job(rows, ONE_STEP, plan, steps=1, key=str(key), noise=noise) for key in range(40)]
        numbers = torch.cat([part.flatten() for job in jobs for part in moved(model, job)])
        assert float(numbers.std()) == pytest.approx(NOISE * CLIP / 0.25, rel=0.04)  # 40 * 322 numbers: +- 0.6 %
        assert abs(float(numbers.mean())) < 0.06


def test_an_empty_batch_steps_with_noise_alone_and_makes_no_forward(model: TextClassifier, rows: TokenRows) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a forward without examples")

    before, parameters = random_state(model, seed=5), trained_parameters(model)
    load_state(model, before)
    handle = model.register_forward_pre_hook(refuse)
    assert train(model, make_job(rows, PRIVATE, make_plan(24, rate=NOBODY), steps=3)) == 3
    handle.remove()
    after = trainable_state(model)
    load_state(model, before)
    descent = Sgd(0.05)
    for noise in drawn_noises(parameters, steps=3):
        descent.step(parameters, [part / (24 * NOBODY) for part in noise])
    for name, value in trainable_state(model).items():
        torch.testing.assert_close(after[name], value, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rate", [NOBODY, 0.02, RATE, 1.0])
def test_the_number_of_private_steps_is_the_plans_whatever_is_drawn(
    model: TextClassifier, rows: TokenRows, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    inner = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *rest: (steps.append(1), inner(self, *rest))[1])
    assert train(model, make_job(rows, replace(PRIVATE, micro_batch=2), make_plan(24, rate=rate), steps=7)) == 7
    assert len(steps) == 7


def test_an_example_whose_gradient_is_not_finite_counts_as_zero(model: TextClassifier, rows: TokenRows) -> None:
    """A state, or a text, that makes NaN must not show through the noise."""
    plan = make_plan(24, noise=NEGLIGIBLE, rate=1.0)
    word = 4 + 8  # the first plain word; rows without it stay finite
    ill = [row for row in range(24) if word in rows.batch([row]).input_ids]
    assert 0 < len(ill) < 24
    sound = [row for row in range(24) if row not in ill]
    parameters = trained_parameters(model)
    expected = [torch.zeros_like(p) for p in parameters]
    for row in sound:
        gradient = one_gradient(model.eval(), parameters, rows, row)
        factor = min(1.0, CLIP / norm_of(gradient))
        expected = [before - factor * part / 24 for before, part in zip(expected, gradient, strict=True)]
    model.encoder.get_submodule("embeddings.word_embeddings").weight.data[word] = torch.nan
    before = [parameter.detach().clone() for parameter in parameters]
    train(model, make_job(rows, ONE_STEP, plan, steps=1))
    for parameter, start, part in zip(parameters, before, expected, strict=True):
        torch.testing.assert_close(parameter.detach() - start, part, atol=1e-5, rtol=0)


def test_noise_does_not_follow_torchs_global_seed(model: TextClassifier, rows: TokenRows) -> None:
    plan = make_plan(24, rate=NOBODY)
    found = []
    for key, noise in (("site a", "seeded"), ("site b", "seeded"), ("site a", "secure"), ("site a", "secure")):
        torch.manual_seed(42)
        found.append(trained(model, make_job(rows, PRIVATE, plan, steps=1, key=key, noise=noise))["head.weight"])
        assert torch.initial_seed() == 42
    assert all(not torch.equal(one, other) for place, one in enumerate(found) for other in found[:place])


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_training_draws_nothing_from_torchs_global_generator(
    model: TextClassifier, rows: TokenRows, noise: str
) -> None:
    before = torch.get_rng_state()
    train(model, make_job(rows, PRIVATE, make_plan(24), steps=2, noise=noise))
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_training_repeats_bit_for_bit_and_secure_training_does_not(
    model: TextClassifier, rows: TokenRows
) -> None:
    seeded = [trained(model, make_job(rows, PRIVATE, make_plan(24), steps=2)) for _ in range(2)]
    secure = [trained(model, make_job(rows, PRIVATE, make_plan(24), steps=2, noise="secure")) for _ in range(2)]
    assert all(torch.equal(seeded[0][name], seeded[1][name]) for name in seeded[0])
    assert not any(torch.equal(secure[0][name], secure[1][name]) for name in secure[0])


def test_rounds_on_a_resident_model_leave_nothing_behind(model: TextClassifier, rows: TokenRows) -> None:
    for _ in range(2):
        first = trained(model, make_job(rows, PRIVATE, make_plan(24), steps=2))
        assert_clean(model)
        assert not model.training
    again = trained(model, make_job(rows, PRIVATE, make_plan(24), steps=2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_round_that_broke_off_half_way_leaves_nothing_behind(model: TextClassifier, rows: TokenRows) -> None:
    expected = trained(model, make_job(rows, PRIVATE, make_plan(24), steps=2))
    seen: list[int] = []

    def break_off(*_: object) -> None:
        seen.append(1)
        if len(seen) == 3:
            raise MemoryError

    handle = model.register_forward_hook(break_off)
    with pytest.raises(MemoryError):
        train(model, make_job(rows, PRIVATE, make_plan(24), steps=2))
    handle.remove()
    assert_clean(model)
    found = trained(model, make_job(rows, PRIVATE, make_plan(24), steps=2))
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_plain_round_after_a_private_one_equals_one_on_a_fresh_model(
    model: TextClassifier, tiny_base: Path, rows: TokenRows
) -> None:
    train(model, make_job(rows, PRIVATE, make_plan(24), steps=2))
    after = trained(model, make_job(rows, PRIVATE, None, steps=3))
    fresh = trained(tiny_model(tiny_base), make_job(rows, PRIVATE, None, steps=3))
    assert all(torch.equal(after[name], fresh[name]) for name in after)


def test_every_layer_can_train_privately_without_the_pooler_that_has_no_gradient(
    tiny_base: Path, rows: TokenRows
) -> None:
    model = tiny_model(tiny_base, layers="all", targets="all-linear")
    assert all(float(part.abs().max()) > 0 for part in moved(model, make_job(rows, PRIVATE, make_plan(24), steps=1)))
    assert not [name for name in trainable_state(model) if "pooler" in name]


@pytest.mark.parametrize(
    ("epochs", "rows_", "batch", "private", "steps"),
    [
        (1.0, 2800, 280, True, 10),
        (1.0, 10, 4, True, 2),  # 2.5 batches on average
        (1.0, 10, 4, False, 3),  # 4 + 4 + 2
        (2.0, 10, 4, False, 6),
        (0.5, 100, 10, False, 5),
        (0.01, 100, 10, True, 1),
        (3.0, 10, 64, True, 3),  # never more than all rows in a step
    ],
)
def test_steps_of_a_round_are_passes_over_the_rows(
    epochs: float, rows_: int, batch: int, private: bool, steps: int
) -> None:
    assert steps_per_round(rows_, Training(epochs=epochs, batch_size=batch), private=private) == steps


def recorded(rows: TokenRows, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    seen: list[list[int]] = []
    inner = rows.batch
    monkeypatch.setattr(rows, "batch", lambda indices: (seen.append(indices.tolist()), inner(indices))[1])
    return seen


def test_nobody_can_work_out_from_the_key_who_was_drawn_by_secure_sampling(
    model: TextClassifier, rows: TokenRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = recorded(rows, monkeypatch)
    training, plan = replace(PRIVATE, micro_batch=24), make_plan(24, rate=0.5)
    for noise in ("seeded", "seeded", "secure", "secure"):
        train(model, make_job(rows, training, plan, steps=3, noise=noise))
    runs = [seen[start : start + 3] for start in (0, 3, 6, 9)]
    assert runs[0] == runs[1]
    assert runs[1] != runs[2] != runs[3]


def test_every_plain_epoch_sees_every_row_once(
    model: TextClassifier, rows: TokenRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = recorded(rows, monkeypatch)
    training = Training(epochs=2, batch_size=7, micro_batch=7)
    train(model, make_job(rows, training, None, steps=steps_per_round(24, training, private=False)))
    assert [len(batch) for batch in seen] == [7, 7, 7, 3, 7, 7, 7, 3]
    epochs = [[row for batch in part for row in batch] for part in (seen[:4], seen[4:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(24))
    assert epochs[0] != epochs[1]


def test_micro_batches_do_not_change_a_plain_step(model: TextClassifier, rows: TokenRows) -> None:
    whole, pieces = (
        trained(model, make_job(rows, replace(PRIVATE, micro_batch=size), None, steps=3)) for size in (24, 3)
    )
    for name in whole:
        torch.testing.assert_close(whole[name], pieces[name], atol=1e-6, rtol=0)


def test_a_plain_step_follows_the_mean_gradient(model: TextClassifier, rows: TokenRows) -> None:
    parameters = trained_parameters(model)
    singly = [one_gradient(model.eval(), parameters, rows, row) for row in range(24)]
    before = [parameter.detach().clone() for parameter in parameters]
    train(model, make_job(rows, ONE_STEP, None, steps=1))
    for place, parameter in enumerate(parameters):
        mean = sum(gradient[place] for gradient in singly) / 24
        torch.testing.assert_close(before[place] - parameter.detach(), mean, atol=1e-6, rtol=1e-4)


def test_grad_clip_bounds_a_plain_step(model: TextClassifier, rows: TokenRows) -> None:
    free = norm_of(moved(model, make_job(rows, ONE_STEP, None, steps=1)))
    bound = norm_of(moved(model, make_job(rows, replace(ONE_STEP, grad_clip=free / 3), None, steps=1)))
    assert bound == pytest.approx(free / 3, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_weight_decay_pulls_every_number_to_zero(model: TextClassifier, rows: TokenRows, optimizer: str) -> None:
    plain = replace(ONE_STEP, optimizer=optimizer, lr=0.1)
    without = trained(model, make_job(rows, plain, None, steps=1))
    decayed = trained(model, make_job(rows, replace(plain, weight_decay=0.5), None, steps=1))
    for name, start in random_state(model, seed=5).items():
        torch.testing.assert_close(decayed[name], without[name] - 0.1 * 0.5 * start, atol=1e-6, rtol=0)


def test_the_head_may_have_a_learning_rate_of_its_own(model: TextClassifier, rows: TokenRows) -> None:
    start = random_state(model, seed=5)
    same = trained(model, make_job(rows, ONE_STEP, None, steps=1))
    other = trained(model, make_job(rows, replace(ONE_STEP, head_lr=3.0), None, steps=1))
    for name, value in same.items():
        factor = 3 if name.startswith("head.") else 1
        torch.testing.assert_close(other[name] - start[name], factor * (value - start[name]), atol=1e-6, rtol=1e-4)


def test_the_rate_warms_up_and_then_stays_or_falls() -> None:
    warm = Training(warmup=0.4)  # 4 of 10 steps
    assert [rate_factor(step, 10, warm) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    linear = Training(schedule="linear")
    assert [rate_factor(step, 10, linear) for step in (0, 5, 9)] == pytest.approx([1, 0.5, 0.1])
    both = Training(schedule="linear", warmup=0.4)
    assert [rate_factor(step, 10, both) for step in (3, 4, 7)] == pytest.approx([0.8, 1, 0.5])


def test_the_first_step_of_adagrad_is_the_rate_for_every_number_whatever_its_gradient(
    model: TextClassifier, rows: TokenRows
) -> None:
    """Duchi et al. (2011): the gradient over the square root of its squares so far, of which there is one."""
    start = trainable_state(model)
    ended = trained(model, make_job(rows, replace(ONE_STEP, optimizer="adagrad", lr=0.25), None, steps=1))
    moved = (ended["head.weight"] - start["head.weight"]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.25), atol=1e-4, rtol=0)


def test_a_cosine_is_half_way_at_half_time_and_flat_at_both_ends() -> None:
    """(1 + cos(pi t)) / 2 at t = 0, 1/3, 1/2, 2/3."""
    factors = [rate_factor(step, 12, Training(schedule="cosine")) for step in (0, 4, 6, 8)]
    assert factors == pytest.approx([1, 0.75, 0.5, 0.25])


def test_the_schedule_goes_on_from_round_to_round(model: TextClassifier, rows: TokenRows) -> None:
    linear = replace(ONE_STEP, schedule="linear")
    job = replace(make_job(rows, linear, None, steps=1), total=10)
    first, last = moved(model, job), moved(model, replace(job, start=9))
    for one, other in zip(first, last, strict=True):
        torch.testing.assert_close(other, 0.1 * one, atol=1e-6, rtol=1e-4)


def test_patience_stops_after_so_many_epochs_without_a_better_loss(model: TextClassifier, rows: TokenRows) -> None:
    losses = iter([1.0, 0.9, 0.95, 0.9, 0.1])  # the fourth is no better than the second
    training = Training(batch_size=8, patience=2)
    job = replace(make_job(rows, training, None, steps=30), validate=lambda: next(losses))
    assert train(model, job) == 4 * 3  # 24 rows are 3 batches
    assert next(losses) == 0.1


def test_without_patience_nobody_is_asked_for_a_loss(model: TextClassifier, rows: TokenRows) -> None:
    def refuse() -> float:
        raise AssertionError("asked")

    assert train(model, replace(make_job(rows, PRIVATE, None, steps=4), validate=refuse)) == 4


def test_a_large_site_makes_no_more_steps_than_max_steps() -> None:
    training = Training(batch_size=10, epochs=2.0, max_steps=7)
    assert steps_per_round(100, training, private=True) == 7  # not 20
    assert steps_per_round(20, training, private=True) == 4
