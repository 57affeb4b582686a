"""A base in bfloat16: what it changes, what it must not, and who chooses it."""

import time
from pathlib import Path

import pytest
import torch
from one_site import CLIP, drawn_batches, make_job, make_plan, random_state
from reference import norm_of, one_gradient
from tiny import token_rows
from torch import nn

from fedrelease.client.selftest import check_gradients
from fedrelease.client.training import train
from fedrelease.data.tokens import TokenRows
from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter, Model, Training
from fedrelease.models import precision
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier, load_state, trainable_state
from fedrelease.models.evaluation import predict_logits
from fedrelease.models.per_example import per_example
from fedrelease.models.precision import chosen_precision
from fedrelease.models.prefix import with_prefix

AUTO = Model(precision="auto")


def built(base: Path, kind: str) -> TextClassifier:
    model = Model(precision=kind, adapter=Adapter(rank=2, layers="last:1"))
    classifier = build_classifier(open_base(str(base), cache=base), model, seed=3)
    load_state(classifier, random_state(classifier, seed=5))
    return classifier.eval()


@pytest.fixture
def rows(tmp_path: Path, tiny_base: Path) -> TokenRows:
    return token_rows(tmp_path / "rows.safetensors", tiny_base)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def test_only_the_base_is_in_bfloat16(tiny_base: Path) -> None:
    model = built(tiny_base, "bfloat16")
    assert {value.dtype for value in trained(model).values()} == {torch.float32}
    left = [value for value in model.parameters() if not value.requires_grad]
    assert {value.dtype for value in left} == {torch.bfloat16}
    assert {value.dtype for value in trainable_state(model).values()} == {torch.float32}


def test_logits_are_float32_and_close_to_those_of_float32(tiny_base: Path, rows: TokenRows) -> None:
    exact, short = (predict_logits(built(tiny_base, kind), rows) for kind in ("float32", "bfloat16"))
    assert short.dtype == torch.float32
    assert 0 < float((short - exact).norm() / exact.norm()) < 0.02


def test_gradients_by_example_are_float32_and_close_to_those_of_float32(tiny_base: Path, rows: TokenRows) -> None:
    exact, short = built(tiny_base, "float32"), built(tiny_base, "bfloat16")
    batch = rows.batch(range(6))
    singly = [one_gradient(exact, list(trained(exact).values()), rows, row) for row in range(6)]
    with per_example(short):
        logits = short(batch.input_ids, batch.attention_mask)
        nn.functional.cross_entropy(logits, batch.labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
        found = [value.grad_sample for value in trained(short).values()]  # type: ignore[attr-defined]
    assert {gradients.dtype for gradients in found} == {torch.float32}
    for row, expected in enumerate(singly):
        off = norm_of([gradients[row] - part for gradients, part in zip(found, expected, strict=True)])
        assert 0 < off < 0.03 * norm_of(expected)


def test_a_step_moves_nobody_further_than_the_clip(tiny_base: Path, rows: TokenRows) -> None:
    """Norms are taken of what is summed, in float32: rounding before it bounds nothing less."""
    model = built(tiny_base, "bfloat16")
    before = trainable_state(model)
    training = Training(batch_size=8, lr=1.0, optimizer="sgd")
    plan = make_plan(len(rows), noise=1e-9)
    train(model, make_job(rows, training, plan, steps=1))
    drawn = len(drawn_batches(rows, steps=1)[0])
    moved = norm_of([value - before[name] for name, value in trainable_state(model).items()])
    assert 0 < moved <= drawn * CLIP / plan.batch_size * (1 + 1e-5)


def test_the_self_test_passes_in_both(tiny_base: Path, rows: TokenRows) -> None:
    for kind in ("float32", "bfloat16"):
        check_gradients(built(tiny_base, kind), rows)


def test_the_kept_prefix_is_in_the_bases_precision_and_changes_no_bit(tiny_base: Path, rows: TokenRows) -> None:
    kept = {}
    for kind in ("float32", "bfloat16"):
        model = built(tiny_base, kind)
        kept[kind] = with_prefix(model, rows, key="base")
        assert torch.equal(predict_logits(model, kept[kind]), predict_logits(model, rows))
    assert [rows.batch([0]).prefix.dtype for rows in kept.values()] == [torch.float32, torch.bfloat16]  # type: ignore[union-attr]


def test_what_was_measured_once_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_gain", lambda: 1.9)
    assert chosen_precision(AUTO, tmp_path).precision == "bfloat16"
    monkeypatch.setattr(precision, "_gain", lambda: pytest.fail("measured again"))
    assert chosen_precision(AUTO, tmp_path).precision == "bfloat16"
    (file,) = (tmp_path / "precision").iterdir()
    file.write_text("{")
    monkeypatch.setattr(precision, "_gain", lambda: 0.4)
    assert chosen_precision(AUTO, tmp_path).precision == "float32"


def test_what_was_asked_for_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_gain", lambda: pytest.fail("measured"))
    for kind in ("float32", "bfloat16"):
        assert chosen_precision(Model(precision=kind), tmp_path).precision == kind
    assert not (tmp_path / "precision").exists()


def test_the_measurement_is_a_ratio_and_leaves_the_threads_alone() -> None:
    threads = torch.get_num_threads()
    assert precision._gain() > 0
    assert torch.get_num_threads() == threads


def test_waiting_for_a_processor_that_others_use_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else both precisions look alike on a busy machine, and what is measured once is kept."""
    monkeypatch.setattr(torch, "mm", lambda left, right: time.sleep(0.05))
    assert precision._seconds(torch.ones(1), torch.ones(1)) < 0.04


def test_a_model_is_not_built_before_a_precision_was_chosen(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match=r"no precision was chosen.*auto.*float32 or bfloat16"):
        build_classifier(open_base(str(tiny_base), cache=tiny_base), AUTO, seed=0)


def test_exact_products_are_float32_whatever_medium_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for medium, chosen in ((True, "medium"), (False, "highest")):
        monkeypatch.setattr(precision, "_medium_is_exact", lambda medium=medium: medium)
        with precision.exact_matmul():
            assert torch.get_float32_matmul_precision() == chosen


def test_medium_is_not_taken_for_exact_where_it_multiplies_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    precision._medium_is_exact.cache_clear()
    monkeypatch.setattr(precision, "_off", lambda found, exact: 2**-9)  # how far bfloat16 is off
    assert not precision._medium_is_exact()
    precision._medium_is_exact.cache_clear()
