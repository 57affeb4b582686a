"""Fixtures of the command line's tests."""

from pathlib import Path

import pytest
from example_store import make_store

from fedrelease.server.store import Store


@pytest.fixture
def example_store(tmp_path: Path) -> Store:
    """Releases 0.0.0 and 0.1.1 to 0.1.4; 0.1.3 is held."""
    return make_store(tmp_path / "store")
