import re
from pathlib import Path

import click
import pytest

from fedrelease.cli import command

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
WHOLE = command()
assert isinstance(WHOLE, click.Group)
VERBS = {
    verb if inner is None else f"{verb} {inner}": command
    for verb, group in WHOLE.commands.items()
    for inner, command in (group.commands.items() if isinstance(group, click.Group) else [(None, group)])
}
"""Every verb, those of a group as ``server start``."""


def section(verb: str) -> str:
    found = re.search(rf"^## fedrelease {verb}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/cli.md has no section on {verb}"
    return found[1]


def flags(verb: str) -> set[str]:
    return {flag for option in VERBS[verb].params if isinstance(option, click.Option) for flag in option.opts}


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_flag_of_a_verb_is_documented_and_every_documented_flag_exists(verb: str) -> None:
    rows = [line.split("|")[1] for line in section(verb).splitlines() if line.startswith("| `-")]
    documented = {flag for row in rows for flag in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", row)}
    assert documented == flags(verb)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_takes_json(verb: str) -> None:
    assert "--json" in flags(verb)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_the_help_of_a_verb_ends_with_an_example_of_it(verb: str) -> None:
    context = click.Context(VERBS[verb], info_name=f"fedrelease {verb}")
    _, _, after = VERBS[verb].get_help(context).rpartition("Example:")
    assert f"    fedrelease {verb}" in after


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_shows_no_marks_of_another_language(verb: str) -> None:
    assert "\\" not in VERBS[verb].get_help(click.Context(VERBS[verb], info_name=verb))


def test_no_verb_is_documented_that_does_not_exist() -> None:
    assert set(re.findall(r"^## fedrelease ([\w ]+)$", PAGE, re.MULTILINE)) == set(VERBS)
