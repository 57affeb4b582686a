"""Pages of docs name the module or the test behind each claim; those exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {
    "attacks.md": 5,
    "compare.md": 10,
    "compatibility.md": 8,
    "deploy.md": 8,
    "operate.md": 8,
    "privacy.md": 10,
    "store.md": 10,
    "export.md": 10,
    "gates.md": 10,
    "signatures.md": 10,
    "from-round-to-release.md": 5,
    "cluster.md": 5,
    "reading.md": 8,
    "speed.md": 5,
    "task-causal-lm.md": 16,
    "task-images.md": 5,
    "task-texts.md": 20,
    "task-masked-lm.md": 8,
    "task-seq2seq.md": 8,
    "task-token-classification.md": 3,
    "threats.md": 30,
    "data.md": 8,
    "tracking.md": 10,
    "transport.md": 16,
    "watching.md": 6,
}
"""With how many they name at least."""
ROOMS = ("client", "deploy", "docs", "server", "simulations", "src", "strategies", "tests")


def named(page: str) -> list[str]:
    """Everything in code marks inside square brackets: paths, and tests after the path of their module."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"\[(`[^\]]+`)\](?!\()", text)
    return [name for block in blocks for name in re.findall(r"`([^`]+)`", block)]


@pytest.mark.parametrize("page", PAGES)
def test_every_module_and_test_behind_a_claim_exists(page: str) -> None:
    module, wrong = "", []
    for name in named(page):
        if name.startswith(tuple(f"{room}/" for room in ROOMS)):
            module = name
            wrong += [] if (ROOT / name).is_file() else [name]
        elif f"def {name}(" not in (ROOT / module).read_text(encoding="utf-8"):
            wrong.append(f"{module}::{name}")
    assert wrong == []
    assert len(named(page)) >= PAGES[page]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_outside_of_the_brackets_that_looks_like_ours_is_ours(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    paths = re.findall(r"`((?:client|deploy|server|simulations|src|strategies|tests|docs)/[\w/.]+\.\w+)`", text)
    assert [path for path in paths if not (ROOT / path).is_file()] == []
