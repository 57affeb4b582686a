"""The frozen prefix: kept once, changing nothing."""

import random
from pathlib import Path

import pytest
import torch
from tiny import sentence

from fedrelease.data.tokens import TokenRows, load_tokenizer, save_rows, tokenise
from fedrelease.experiment import Adapter, Model
from fedrelease.models import prefix as prefix_module
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier
from fedrelease.models.evaluation import predict_logits
from fedrelease.models.prefix import with_prefix


def model_with(tiny_base: Path, layers: str) -> TextClassifier:
    model = build_classifier(
        open_base(str(tiny_base), cache=tiny_base), Model(adapter=Adapter(rank=2, layers=layers)), seed=7
    )
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(2))
    return model


@pytest.fixture
def rows(tmp_path: Path, tiny_base: Path) -> TokenRows:
    numbers = random.Random(4)
    texts = [sentence("positive", numbers) for _ in range(70)]
    save_rows(tmp_path / "rows.safetensors", tokenise(texts, [0, 1] * 35, load_tokenizer(tiny_base), 32))
    return TokenRows(tmp_path / "rows.safetensors")


def test_logits_with_the_kept_prefix_equal_those_without_bit_for_bit(tiny_base: Path, rows: TokenRows) -> None:
    model = model_with(tiny_base, "last:1")
    kept = with_prefix(model, rows, key="base")
    assert kept.batch([0]).prefix is not None
    assert torch.equal(predict_logits(model, kept), predict_logits(model, rows))


def test_gradients_with_the_kept_prefix_equal_those_without(tiny_base: Path, rows: TokenRows) -> None:
    model = model_with(tiny_base, "last:1")
    gradients = []
    for source in (rows, with_prefix(model, rows, key="base")):
        batch = source.batch([5, 2, 60])
        model.zero_grad()
        torch.autograd.backward(model(batch.input_ids, batch.attention_mask, batch.prefix).square().sum())
        gradients.append([value.grad.clone() for value in model.parameters() if value.grad is not None])
    assert len(gradients[0]) == 6  # A and B of query and value, weight and bias of the head
    for slow, quick in zip(*gradients, strict=True):
        torch.testing.assert_close(quick, slow, atol=1e-6, rtol=1e-5)


def test_the_frozen_layers_stand_again_after_a_forward_with_a_prefix(tiny_base: Path, rows: TokenRows) -> None:
    model = model_with(tiny_base, "last:1")
    before = list(model.layers)
    predict_logits(model, with_prefix(model, rows, key="base"))
    assert all(now is then for now, then in zip(model.layers, before, strict=True))


def test_the_prefix_is_computed_once_and_read_afterwards(
    tiny_base: Path, rows: TokenRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_with(tiny_base, "last:1")
    first = with_prefix(model, rows, key="base").batch([3]).prefix
    monkeypatch.setattr(prefix_module, "_compute", lambda *_: pytest.fail("computed again"))
    assert torch.equal(first, with_prefix(model, rows, key="base").batch([3]).prefix)
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        with_prefix(model, rows, key="another-base")


def test_a_damaged_prefix_file_is_computed_again(tiny_base: Path, rows: TokenRows) -> None:
    model = model_with(tiny_base, "last:1")
    whole = with_prefix(model, rows, key="base").batch([3]).prefix
    (file,) = rows.path.parent.glob("*.prefix-*")
    file.write_bytes(file.read_bytes()[:50])
    assert torch.equal(whole, with_prefix(model, rows, key="base").batch([3]).prefix)


def test_an_adapter_in_every_layer_leaves_nothing_to_keep(tiny_base: Path, rows: TokenRows) -> None:
    assert with_prefix(model_with(tiny_base, "all"), rows, key="base") is rows


def test_a_prefix_that_would_be_too_large_is_not_made(
    tiny_base: Path, rows: TokenRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_module, "LARGEST_BYTES", 1000)
    assert with_prefix(model_with(tiny_base, "last:1"), rows, key="base") is rows
    assert list(rows.path.parent.glob("*.prefix-*")) == []
