"""A site with real rows, a tiny base and a model on it."""

import random
from pathlib import Path

import pytest
from one_site import make_site, tiny_model
from tiny import sentence

from fedrelease.client.site import Site
from fedrelease.data.tokens import TokenRows, load_tokenizer, save_rows, tokenise
from fedrelease.models.classifier import TextClassifier


@pytest.fixture
def rows(tmp_path: Path, tiny_base: Path) -> TokenRows:
    """24 rows of 6 to 12 tokens, both labels alike."""
    numbers = random.Random(1)
    texts = [sentence(("negative", "positive")[number % 2], numbers) for number in range(24)]
    save_rows(tmp_path / "rows.safetensors", tokenise(texts, [0, 1] * 12, load_tokenizer(tiny_base), 32))
    return TokenRows(tmp_path / "rows.safetensors")


@pytest.fixture
def model(tiny_base: Path) -> TextClassifier:
    """A classifier whose every trained number differs from zero, so that every gradient does."""
    return tiny_model(tiny_base)


@pytest.fixture
def site(tmp_path: Path, tiny_base: Path) -> Site:
    """A site called a with seeded noise and an empty ledger."""
    return make_site(tmp_path, tiny_base)
