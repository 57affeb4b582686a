"""Fixtures that several rooms' tests share."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.pop("COLUMNS", None)  # workers of pytest-xdist are told a width that nobody chose
os.environ["FEDRELEASE_KEYS"] = tempfile.mkdtemp(prefix="fedrelease-keys-")  # never the keys of who runs the tests
atexit.register(shutil.rmtree, os.environ["FEDRELEASE_KEYS"], ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny base, made once."""
    from tiny import make_base

    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own for the test and for the commands that it runs."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FEDRELEASE_CACHE", str(folder))
    yield folder
