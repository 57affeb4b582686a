"""A site with real rows, a tiny base and a model on it."""

from pathlib import Path

import pytest
from one_site import make_site, tiny_model
from tiny import token_rows

from fedrelease.client.site import Site
from fedrelease.data.tokens import TokenRows
from fedrelease.models.classifier import TextClassifier


@pytest.fixture
def rows(tmp_path: Path, tiny_base: Path) -> TokenRows:
    """24 rows of 6 to 12 tokens, both labels alike."""
    return token_rows(tmp_path / "rows.safetensors", tiny_base)


@pytest.fixture
def model(tiny_base: Path) -> TextClassifier:
    """A classifier whose every trained number differs from zero, so that every gradient does."""
    return tiny_model(tiny_base)


@pytest.fixture
def site(tmp_path: Path, tiny_base: Path) -> Site:
    """A site called a with seeded noise and an empty ledger."""
    return make_site(tmp_path, tiny_base)
