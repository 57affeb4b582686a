"""How many numbers each kind of adapter trains: the table of docs/adapters.md, by arithmetic that a real model confirms."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedrelease.adapter import ADAPTER_KINDS, KEYS, Adapter, trained_words
from fedrelease.experiment import Model
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import build_classifier, trainable_state

PAGE = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of a BERT: its layers, widths, tables and labels."""

    layers: int
    width: int
    inner: int
    words: int
    places: int
    labels: int = 2


TINY = Size(layers=2, width=32, inner=64, words=24, places=64)
MINILM = Size(layers=6, width=384, inner=1536, words=30_522, places=512)


def numbers(kind: str, size: Size, *, rank: int = 8, tokens: int = 16, deep: int = 2) -> int:
    """With the defaults of an adapter: query and value of the last two layers."""
    width = size.width
    norms = 2 * (2 * width)
    layer = 4 * (width * width + width) + 2 * width * size.inner + size.inner + width + norms
    tables = (size.words + size.places + 2) * width + 2 * width
    body = {
        "bottleneck": deep * (2 * rank * width + rank + width),
        "full": size.layers * layer + tables,
        "head": 0,
        "layers": deep * layer,
        "lora": deep * 2 * (2 * rank * width),
        "lora-sb": deep * 2 * rank * rank,
        "norms": deep * norms,
        "prefix": size.layers * tokens * width,
        "prompt": tokens * width,
    }
    return body[kind] + size.labels * (width + 1)


def table() -> dict[str, list[str]]:
    lines = re.findall(r"^\| `([\w-]+)` \|(.*)\|$", PAGE, re.MULTILINE)
    return {kind: [cell.strip() for cell in cells.split("|")] for kind, cells in lines}


@pytest.mark.parametrize("kind", ADAPTER_KINDS)
def test_a_model_trains_as_many_numbers_as_the_arithmetic_says(kind: str, tiny_base: Path) -> None:
    model = build_classifier(open_base(str(tiny_base), cache=tiny_base), Model(adapter=Adapter(kind=kind)), seed=3)
    assert sum(tensor.numel() for tensor in trainable_state(model).values()) == numbers(kind, TINY)


@pytest.mark.parametrize("kind", ADAPTER_KINDS)
def test_the_table_tells_how_many_numbers_each_kind_trains(kind: str) -> None:
    assert table()[kind][2] == f"{numbers(kind, MINILM):,}"


@pytest.mark.parametrize("kind", ADAPTER_KINDS)
def test_the_table_tells_which_keys_each_kind_reads(kind: str) -> None:
    assert sorted(re.findall(r"`(\w+)`", table()[kind][1])) == sorted(KEYS[kind])


def test_the_table_has_every_kind_and_no_other_the_smallest_first() -> None:
    assert sorted(table()) == list(ADAPTER_KINDS)
    counts = [int(cells[2].replace(",", "")) for cells in table().values()]
    assert counts == sorted(counts)


@pytest.mark.parametrize("kind", ADAPTER_KINDS)
def test_every_kind_is_told_in_words_with_its_size(kind: str) -> None:
    words = trained_words(Adapter(kind=kind, rank=3, tokens=7))
    assert ("3" in words) == ("rank" in KEYS[kind]) and ("7" in words) == ("tokens" in KEYS[kind])
