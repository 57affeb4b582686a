"""What a model does on rows."""

import math
import random
from pathlib import Path

import pytest
import torch
from tiny import sentence
from torch.nn import functional

from fedrelease.data.tokens import TokenRows, load_tokenizer, save_rows, tokenise
from fedrelease.experiment import Adapter, Model
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier
from fedrelease.models.evaluation import look, predict_logits

LABELS = ("negative", "positive")


@pytest.fixture
def model(tiny_base: Path) -> TextClassifier:
    model = build_classifier(
        open_base(str(tiny_base), cache=tiny_base), Model(adapter=Adapter(rank=2, layers="last:1")), seed=7
    )
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(2))
    return model


def rows_of(tmp_path: Path, tiny_base: Path, count: int) -> TokenRows:
    numbers = random.Random(4)
    texts = [sentence("positive", numbers) for _ in range(count)]
    labels = [number % 2 for number in range(count)]
    save_rows(tmp_path / "rows.safetensors", tokenise(texts, labels, load_tokenizer(tiny_base), 32))
    return TokenRows(tmp_path / "rows.safetensors")


@pytest.fixture
def rows(tmp_path: Path, tiny_base: Path) -> TokenRows:
    return rows_of(tmp_path, tiny_base, 70)  # more than one batch


def test_logits_come_in_the_order_of_the_rows(model: TextClassifier, rows: TokenRows) -> None:
    found = predict_logits(model, rows)
    for row in (0, 1, 33, 69):
        batch = rows.batch([row])
        with torch.no_grad():
            torch.testing.assert_close(
                found[row], model(batch.input_ids, batch.attention_mask)[0], atol=1e-5, rtol=1e-4
            )


def test_looking_keeps_no_gradient_and_draws_no_random_number(model: TextClassifier, rows: TokenRows) -> None:
    before = torch.get_rng_state()
    assert not predict_logits(model.train(), rows).requires_grad
    assert not model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_look_is_the_confusion_and_the_mean_loss(model: TextClassifier, rows: TokenRows) -> None:
    told = look(model, rows, LABELS)
    matrix, loss = told.matrix, told.loss
    logits = predict_logits(model, rows)
    said = logits.argmax(1)
    for true in (0, 1):
        for guess in (0, 1):
            assert matrix[true, guess] == int(((rows.labels == true) & (said == guess)).sum())
    assert matrix.sum() == 70
    assert loss == pytest.approx(float(functional.cross_entropy(logits, rows.labels)))


def test_a_model_that_prefers_nothing_has_the_loss_of_a_coin(model: TextClassifier, rows: TokenRows) -> None:
    torch.nn.init.zeros_(model.head.weight)
    assert look(model, rows, LABELS).loss == pytest.approx(math.log(2))


def test_no_rows_have_no_counts_and_no_loss(model: TextClassifier, tmp_path: Path, tiny_base: Path) -> None:
    told = look(model, rows_of(tmp_path, tiny_base, 0), LABELS)
    assert (told.matrix.sum(), told.loss) == (0, 0)
