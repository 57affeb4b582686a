"""Command lines of ours inside other texts, compared with the real command line.

Example::

    commands("ExecStart=/opt/fedrelease/bin/fedrelease site start --folder x")        # [['site', 'start', '--folder', 'x']]
    unknown(["site", "start", "--nothing"])                                           # ['--nothing']
"""

import re

import click

from fedrelease.cli import command

WHOLE = command()
assert isinstance(WHOLE, click.Group)
LINE = re.compile(r"(?<![\w.@/-])(?:\S*/bin/)?fedrelease +(?P<words>(?:--version\b|[a-z][a-z]+ ?)[^\n`#|;&()]*)")


def commands(text: str) -> list[list[str]]:
    """Every line that calls a verb of ours, as words; lines that go on after a backslash are one."""
    joined = text.replace("\\\n", " ")
    found = (match["words"].split() for match in LINE.finditer(joined))
    return [words for words in found if words[0] in WHOLE.commands]


def unknown(words: list[str]) -> list[str]:
    """Those of the words that the real command line does not know: verbs and flags."""
    verb: click.Command = WHOLE.commands[words[0]]
    if isinstance(verb, click.Group):
        inner = words[1] if len(words) > 1 else ""
        if inner not in verb.commands:
            return [" ".join(words[:2])]
        verb = verb.commands[inner]
    flags = {flag for option in verb.params if isinstance(option, click.Option) for flag in option.opts}
    return [word for word in words if word.startswith("--") and word not in flags | {"--"}]
