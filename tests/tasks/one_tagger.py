"""A small model that tags words, every trained number of it other than zero."""

from pathlib import Path

import torch
from tiny import TAGS

from fedrelease.experiment import Adapter, Model
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, load_state, trainable_state
from fedrelease.models.tasks import build_model


def make_tagger(base: Path, *, kind: str = "lora") -> TextClassifier:
    adapter = Adapter(kind=kind) if kind == "full" else Adapter(kind=kind, rank=2, layers="last:1")
    wanted = Model(base=str(base), task="token-classification", labels=TAGS, adapter=adapter)
    model = build_model(open_base(str(base), cache=base), wanted, seed=3)
    assert isinstance(model, TextClassifier)
    numbers = torch.Generator().manual_seed(5)
    state = trainable_state(model)
    if kind != "full":
        load_state(model, {name: 0.3 * torch.randn(value.shape, generator=numbers) for name, value in state.items()})
    return model
