"""docs/experiment.md against the dataclasses: every key with its true type and default, and an example that loads."""

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import get_args, get_origin, get_type_hints

import pytest

from fedrelease import experiment_data as d
from fedrelease import experiment_sections as e
from fedrelease import experiment_training as t
from fedrelease.adapter import ADAPTER_KINDS, TARGETS, AdapterChange
from fedrelease.attack import KINDS, Attack
from fedrelease.augment import Augment
from fedrelease.experiment import Experiment
from fedrelease.experiment_file import load_experiment, to_toml
from fedrelease.retention import Retention
from fedrelease.strategies import make_strategy
from fedrelease.transport import CODECS, DOWN, Transport
from fedrelease.virtual_time import VirtualTime

PAGE = (Path(__file__).parents[1] / "docs" / "experiment.md").read_text(encoding="utf-8")
SECTIONS: Mapping[str, type] = {
    "[federation]": e.Federation,
    "[model]": e.Model,
    "[model.adapter]": e.Adapter,
    "[data]": d.Data,
    "[data.partition]": d.Partition,
    "[training]": t.Training,
    "[training.augment]": Augment,
    "[privacy]": e.Privacy,
    "[virtual_time]": VirtualTime,
    "[attack]": Attack,
    "[retention]": Retention,
    "[transport]": Transport,
    "[[phase]]": e.Phase,
    "[phase.adapter]": AdapterChange,
}
CHOICES = {
    ("[model]", "batch_norm"): e.BATCH_NORMS,
    ("[model]", "task"): e.TASKS,
    ("[model.adapter]", "kind"): ADAPTER_KINDS,
    ("[model.adapter]", "targets"): TARGETS,
    ("[data.partition]", "by"): d.PARTITIONS,
    ("[training]", "optimizer"): t.OPTIMIZERS,
    ("[training]", "schedule"): t.SCHEDULES,
    ("[privacy]", "unit"): e.UNITS,
    ("[privacy]", "accountant"): e.ACCOUNTANTS,
    ("[privacy]", "metrics"): e.METRICS_POLICIES,
    ("[[phase]]", "channel"): e.CHANNELS,
    ("[[phase]]", "on_held"): e.ON_HELD,
    ("[attack]", "kind"): KINDS,
    ("[transport]", "codec"): CODECS,
    ("[transport]", "down"): DOWN,
}
TYPES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    e.StrategyChoice: "name or table",
    tuple[str, ...]: "list of texts",
    tuple[float, ...]: "list of numbers",
}


def rows(header: str) -> dict[str, list[str]]:
    """Key -> the cells after it, of one section's table."""
    body = re.search(rf"^## {re.escape(header)}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert body is not None, f"docs/experiment.md has no section {header}"
    lines = [line for line in body[1].splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(row) == 5 for row in cells)
    return {row[0].strip("`"): row[1:] for row in cells}


def keys(section: type) -> dict[str, object]:
    """Key -> type of everything in a section that is no section itself."""
    found = get_type_hints(section)
    return {field.name: found[field.name] for field in fields(section) if found[field.name] not in SECTIONS.values()}


def type_name(hint: object) -> str:
    if get_origin(hint) is tuple:
        return "list of texts"
    if get_origin(hint) is Mapping and get_origin(get_args(hint)[1]) is Mapping:
        return "table of tables"
    if get_origin(hint) is Mapping:
        return f"table of {TYPES[get_args(hint)[1]]}s"
    if any(get_origin(option) is Mapping for option in get_args(hint)):
        return f"{type_name(get_args(hint)[0])}, or left out"
    options = get_args(hint) or (hint,)
    names = " or ".join(TYPES[option] for option in options if option is not NoneType)
    return f"{names}, or left out" if NoneType in options else names


def defaults(header: str) -> dict[str, str]:
    """Key -> the default as TOML, read from the resolved file of the default experiment; nothing where it has no such block.

    A section or key that is written only where it is set has its default from the dataclass.
    """
    block = to_toml(Experiment()).partition(f"{header}\n")[2].split("\n\n", 1)[0]
    written = dict(line.split(" = ", 1) for line in block.splitlines() if " = " in line)
    own = {field.name: field.default for field in fields(SECTIONS[header])} if is_dataclass(SECTIONS[header]) else {}
    return {key: json.dumps(value) for key, value in own.items() if isinstance(value, str | int | float)} | written


@pytest.mark.parametrize("header", SECTIONS)
def test_every_key_is_documented_and_every_documented_key_exists(header: str) -> None:
    assert list(rows(header)) == list(keys(SECTIONS[header])), "in the order of the dataclass"


@pytest.mark.parametrize("header", SECTIONS)
def test_every_documented_type_is_the_true_one(header: str) -> None:
    documented = {key: cells[0] for key, cells in rows(header).items()}
    assert documented == {key: type_name(hint) for key, hint in keys(SECTIONS[header]).items()}


@pytest.mark.parametrize("header", SECTIONS)
def test_every_documented_default_is_the_true_one(header: str) -> None:
    true = defaults(header)
    documented = {key: cells[1].strip("`") for key, cells in rows(header).items()}
    assert documented == {key: true.get(key, "left out") for key in documented}


@pytest.mark.parametrize(("header", "key"), CHOICES)
def test_every_choice_is_documented(header: str, key: str) -> None:
    bounds = rows(header)[key][2]
    assert [choice for choice in CHOICES[header, key] if f"`{choice}`" not in bounds] == []


def test_every_section_of_an_experiment_is_documented() -> None:
    assert re.findall(r"^## (\[.*\])$", PAGE, re.MULTILINE) == list(SECTIONS)


def example() -> str:
    found = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_complete_example_loads_with_all_sections_and_strategies_that_exist() -> None:
    loaded = load_experiment(None, text=example())
    assert (loaded.model.labels, len(loaded.phases)) == (("ham", "spam"), 2)
    left_out = ("[training.augment]", "[virtual_time]", "[attack]", "[transport]", "[phase.adapter]")
    assert [header for header in SECTIONS if header not in example() and header not in left_out] == []
    for phase in loaded.phases:
        make_strategy(phase.strategy)


@pytest.mark.parametrize("override", re.findall(r"`--set ([^`]+=[^`]+)`", PAGE))
def test_every_documented_override_is_accepted(override: str) -> None:
    if override != "KEY=VALUE":
        load_experiment(None, [override], text=example())
