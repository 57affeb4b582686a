"""A strict reader of the few constructs that the chart's templates use; whatever else stands in them is an error.

Example::

    render(text, values=values, release="trial")           # YAML, as `helm template` would write it

``{{ .Values.a.b }}``, ``.Release``, ``.Chart``, ``{{ . }}``, ``if``/``else``/``end``, ``range``/``end``, ``toYaml``, the filters
``quote``, ``nindent`` and ``printf`` with one ``%s``, and ``-`` against white space.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import yaml

Value: TypeAlias = object
TAG = re.compile(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", re.DOTALL)
PATH = re.compile(r"\.(?:Values|Release|Chart)(?:\.\w+)+|\.")


def render(text: str, *, values: Mapping[str, Value], release: str = "trial") -> str:
    """The template with these values.

    Raises:
        ValueError: a construct that is not known here, a value that is not there, or an ``end`` too many or too few.
    """
    scope = {
        "Values": values,
        "Release": {"Name": release, "Namespace": "default"},
        "Chart": {"Name": "fedrelease", "AppVersion": "0.1.0"},
    }
    parts = list(_parts(text))
    out, rest = _block(parts, 0, scope, None)
    if rest != len(parts):
        raise ValueError(f"{parts[rest]} has no beginning")
    return out


def values_named(text: str) -> set[str]:
    """Every ``.Values`` path of a template, dotted."""
    return set(re.findall(r"\.Values\.([\w.]+\w)", text))


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """Texts and tags in turn; a tag's ``-`` has eaten the white space beside it."""
    place, strip = 0, False
    for tag in TAG.finditer(text):
        before = text[place : tag.start()]
        before = before.lstrip() if strip else before
        yield "text", before.rstrip() if tag[1] else before
        yield "tag", tag[2]
        place, strip = tag.end(), bool(tag[3])
    yield "text", text[place:].lstrip() if strip else text[place:]


def _block(parts: Sequence[tuple[str, str]], place: int, scope: Mapping[str, Value], dot: Value) -> tuple[str, int]:
    """What stands from ``place`` to the ``else`` or ``end`` that closes it, and where that is."""
    out = ""
    while place < len(parts):
        kind, body = parts[place]
        if kind == "text":
            out += body
        elif body in ("else", "end"):
            return out, place
        elif body.startswith(("if ", "range ")):
            made, place = _branches(parts, place, scope, dot)
            out += made
        else:
            out += _shown(_pipe(body, scope, dot))
        place += 1
    return out, place


def _branches(parts: Sequence[tuple[str, str]], place: int, scope: Mapping[str, Value], dot: Value) -> tuple[str, int]:
    word, _, path = parts[place][1].partition(" ")
    found = _value(path, scope, dot)
    each = list(found) if word == "range" and isinstance(found, list) else [dot] if found else []
    if word == "range" and not isinstance(found, list):
        raise ValueError(f"{path} is no list")
    middle = _end(parts, place)
    made = "".join(_block(parts, place + 1, scope, one)[0] for one in each)
    if middle < len(parts) and parts[middle][1] == "else":
        made = made if each else _block(parts, middle + 1, scope, dot)[0]
        middle = _end(parts, middle)
    if middle >= len(parts) or parts[middle] != ("tag", "end"):
        raise ValueError(f"{parts[place][1]} has no end")
    return made, middle


def _end(parts: Sequence[tuple[str, str]], place: int) -> int:
    """Where the ``else`` or ``end`` of what begins at ``place`` stands; what lies between is not looked up."""
    depth = 0
    for later in range(place + 1, len(parts)):
        kind, body = parts[later]
        if kind == "tag" and body in ("else", "end") and depth == 0:
            return later
        depth += kind == "tag" and body.startswith(("if ", "range "))
        depth -= kind == "tag" and body == "end"
    raise ValueError(f"{parts[place][1]} has no end")


def _pipe(body: str, scope: Mapping[str, Value], dot: Value) -> Value:
    first, *filters = (part.strip() for part in body.split("|"))
    yamled = first.removeprefix("toYaml ")
    found = _value(yamled, scope, dot)
    found = yaml.safe_dump(found, default_flow_style=False).rstrip("\n") if yamled != first else found
    for one in filters:
        found = _filtered(one, found)
    return found


def _filtered(name: str, found: Value) -> Value:
    if name == "quote":
        return json.dumps(_shown(found))
    if indent := re.fullmatch(r"nindent (\d+)", name):
        return "".join(f"\n{' ' * int(indent[1])}{line}" for line in _shown(found).split("\n"))
    if form := re.fullmatch(r'printf "([^"%]*)%s([^"%]*)"', name):
        return f"{form[1]}{_shown(found)}{form[2]}"
    raise ValueError(f"the filter {name} is not known here")


def _value(path: str, scope: Mapping[str, Value], dot: Value) -> Value:
    if not PATH.fullmatch(path):
        raise ValueError(f"{path} is not known here")
    found: Value = dot if path == "." else scope
    for name in path.removeprefix(".").split(".") if path != "." else ():
        if not isinstance(found, Mapping) or name not in found:
            raise ValueError(f"there is no value {path}")
        found = found[name]
    return found


def _shown(found: Value) -> str:
    return {True: "true", False: "false"}[found] if isinstance(found, bool) else str(found)
