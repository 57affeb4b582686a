"""Settings of a server and of a site: a flat TOML file whose keys and types are those of a frozen dataclass.

Example::

    found = read_toml(folder / "site.toml", missing="folder holds no site", hint="make one: fedrelease site init INVITATION")
    SiteSettings(**checked(found, SiteSettings, "site.toml"))
    with_text(text, "bundle", digest, place="site.toml")         # one key is another, every comment is still there
"""

import json
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fedrelease.errors import ExperimentError

__all__ = ["checked", "read_toml", "with_text"]

TEXTS = tuple[str, ...]


def read_toml(path: Path, *, missing: str, hint: str) -> Mapping[str, object]:
    """What a file of settings says.

    Raises:
        ExperimentError: it is not there, which ``missing`` and ``hint`` explain, or it cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExperimentError(missing, value=str(path), hint=hint) from error
    except (OSError, ValueError) as error:
        raise ExperimentError(f"{path} cannot be read: {error}", value=str(path), rule="it is TOML in UTF-8") from error


def checked(
    found: Mapping[str, object], kind: type[Any], place: str, *, without: Collection[str] = ()
) -> dict[str, Any]:
    """The arguments of a dataclass of texts, numbers and lists of texts; ``without`` are fields that come from elsewhere.

    Raises:
        ExperimentError: a key is unknown, with the nearest known one, or its value is of another type.
    """
    known = {own.name: own.type for own in fields(kind) if own.name not in without}
    chosen: dict[str, Any] = {}
    for key, value in found.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"{near[0]}?" if near else ""
            raise ExperimentError(
                f"{place}: unknown key {key!r}", value=key, rule=f"keys are {', '.join(known)}", hint=hint
            )
        if not _fits(value, known[key]):
            wanted = "a list of texts" if known[key] == TEXTS else getattr(known[key], "__name__", str(known[key]))
            raise ExperimentError(f"{place}: {key} is of another type", value=value, rule=f"{key} is {wanted}")
        chosen[key] = tuple(value) if isinstance(value, list) else value
    return chosen


def _fits(value: object, wanted: object) -> bool:
    if isinstance(value, bool):
        return wanted is bool
    if wanted == TEXTS:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return isinstance(value, (int, float) if wanted is float else wanted)  # type: ignore[arg-type]  # str, int or float


def with_text(file: str, key: str, value: str, *, place: str) -> str:
    """A file of settings with another text for one key at its top level; all else, comments too, stays as it is.

    Raises:
        ExperimentError: the key is written in a way that only a person can change.
    """
    line = f"{key} = {json.dumps(value)}"
    head, table, tables = _top(file)
    found = re.compile(rf"""^[ \t]*{re.escape(key)}[ \t]*=[ \t]*(?:"[^"\n]*"|'[^'\n]*')""", re.MULTILINE)
    changed, count = found.subn(lambda match: line, head)
    made = (changed if count else f"{line}\n{head}") + table + tables
    try:
        right = tomllib.loads(made) == {**tomllib.loads(file), key: value}
    except tomllib.TOMLDecodeError:
        right = False
    if not right:
        raise ExperimentError(
            f"{place}: {key} cannot be changed by a program",
            value=key,
            rule="one line, key = text",
            hint=f"write {line}",
        )
    return made


def _top(file: str) -> tuple[str, str, str]:
    """What stands before the first table, and the rest."""
    table = re.search(r"^[ \t]*\[", file, re.MULTILINE)
    return (file, "", "") if table is None else (file[: table.start()], table[0], file[table.end() :])
