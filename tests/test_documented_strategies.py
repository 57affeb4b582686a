"""docs/strategies.md against the kit: every member, every knob with its true default, and examples that load."""

import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from fedrelease.experiment_file import load_experiment
from fedrelease.strategies import STRATEGIES, make_strategy
from fedrelease.strategies.fedopt import OPTIMIZERS

PAGE = (Path(__file__).parents[1] / "docs" / "strategies.md").read_text(encoding="utf-8")
LINES = [line for line in PAGE.splitlines() if line.startswith("| `")]
ROWS = {cells[0].strip("`"): cells[1:] for cells in ([c.strip() for c in line.strip("|").split("|")] for line in LINES)}


def knobs(name: str) -> dict[str, object]:
    """Knob -> default, ``...`` where there is none, or where one that is left out is worked out."""
    found = fields(STRATEGIES[name])  # type: ignore[arg-type]  # every member is a dataclass
    return {field.name: ... if field.default in (MISSING, None) else field.default for field in found}


def documented(name: str) -> dict[str, object]:
    """What the third cell says: `knob = default`, or `knob` alone where one has to choose."""
    said = re.findall(r"`([^`]+)`", ROWS[name][1])
    return {key: value for one in said for key, value in (tomllib.loads(one) if "=" in one else {one: ...}).items()}


def test_every_member_has_one_row_and_every_row_is_a_member() -> None:
    assert sorted(ROWS) == sorted(STRATEGIES)
    assert len(LINES) == len(ROWS)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_knob_is_documented_with_its_true_default_and_every_documented_knob_exists(name: str) -> None:
    assert documented(name) == knobs(name)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_row_says_what_the_member_does_and_where_it_comes_from(name: str) -> None:
    assert len(ROWS[name]) == 4
    what, _, paper, _ = ROWS[name]
    assert len(what) > 10 and "https://" in paper


def test_every_optimizer_is_documented() -> None:
    assert [name for name in OPTIMIZERS if f"`{name}`" not in PAGE] == []


@pytest.mark.parametrize("line", re.findall(r"^strategy = .*$", PAGE, re.MULTILINE))
def test_every_example_is_a_strategy(line: str) -> None:
    for phase in load_experiment(None, text=f"[[phase]]\n{line}").phases:
        make_strategy(phase.strategy)
