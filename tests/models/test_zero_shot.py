"""A head that starts from what the labels mean."""

from pathlib import Path

import torch

from fedrelease.data.tokens import load_tokenizer, text_rows
from fedrelease.experiment import Adapter, Model
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import build_classifier
from fedrelease.models.evaluation import predict_logits
from fedrelease.models.zero_shot import label_vectors

TEXTS = ("good great warm", "bad poor cold")


def test_each_label_text_is_labelled_with_its_own_label(tiny_base: Path) -> None:
    model = build_classifier(
        open_base(str(tiny_base), cache=tiny_base), Model(adapter=Adapter(layers="last:1")), seed=7
    )
    tokenizer = load_tokenizer(tiny_base)
    with torch.no_grad():
        model.head.weight.copy_(label_vectors(model, tokenizer, TEXTS, max_length=32))
    with text_rows(TEXTS, tokenizer, 32) as rows:
        assert predict_logits(model, rows).argmax(1).tolist() == [0, 1]


def test_no_label_is_favoured_from_the_start(tiny_base: Path) -> None:
    model = build_classifier(
        open_base(str(tiny_base), cache=tiny_base), Model(adapter=Adapter(layers="last:1")), seed=7
    )
    head = label_vectors(model, load_tokenizer(tiny_base), TEXTS, max_length=32)
    assert head.shape == (2, 32)
    torch.testing.assert_close(head.sum(0), torch.zeros(32), atol=1e-5, rtol=0.0)


def test_the_head_scale_multiplies_what_the_head_sees(tiny_base: Path) -> None:
    base = open_base(str(tiny_base), cache=tiny_base)
    logits = []
    for scale in (1.0, 5.0):
        model = build_classifier(base, Model(head_scale=scale, adapter=Adapter(layers="last:1")), seed=7)
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(2))
        with text_rows(TEXTS, load_tokenizer(tiny_base), 32) as rows:
            logits.append(predict_logits(model, rows))
    torch.testing.assert_close(logits[1], 5 * logits[0], atol=1e-5, rtol=1e-4)  # the bias is zero
