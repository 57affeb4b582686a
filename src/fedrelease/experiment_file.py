"""The experiment file: TOML and ``--set`` overrides in, TOML out; errors name the line or the override.

Example::

    experiment = load_experiment(Path("study.toml"), ["phase.0.rounds=2", "training.lr=0.003"])
    print(to_toml(experiment))                      # every key, resolved
    differences(Experiment(), experiment)           # ('phase.0.rounds: 5 -> 2', 'training.lr: 0.001 -> 0.003')
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import cast, get_args, get_origin

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment, StrategyChoice
from fedrelease.experiment_document import (
    KeyPath,
    Misfit,
    dotted,
    experiment_digest,
    flat,
    from_document,
    is_unicode,
    read_experiment,
    to_document,
    wanted_at,
)
from fedrelease.files import Json

__all__ = ["differences", "experiment_digest", "from_document", "load_experiment", "to_document", "to_toml"]

_LINES_SEARCHED = 2_000  # finding a line parses every shorter file; a longer one is named without a line


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """One ``--set``: its path, its value's text, and how it was typed."""

    path: KeyPath
    value: str
    typed: str


def load_experiment(path: Path | None, overrides: Sequence[str] = (), *, text: str | None = None) -> Experiment:
    """The experiment of a TOML file, or of ``text``, with ``--set`` overrides on top.

    Args:
        path: the file; ``None`` = read ``text``, or the defaults alone. With both, ``path`` only names ``text``.
        overrides: ``a.b=c`` in order; the value is TOML, else bare text; ``none`` unsets a key that may be left out.

    Raises:
        ExperimentError: anything is wrong; it names the file, the line, the key, the rule and the way out.
    """
    name = "the experiment" if path is None else str(path)
    if text is None:
        text = "" if path is None else _read_text(path)
    text = text.replace("\r\n", "\n")
    raw = _parse(text, name)
    settings = [_setting(typed) for typed in overrides]
    for setting in settings:
        _apply(raw, setting)
    try:
        return read_experiment(raw)
    except Misfit as misfit:
        raise misfit.at(_place(misfit.path, text, name, settings)) from misfit


def to_toml(experiment: Experiment) -> str:
    """A resolved file with every key, which loads back to an equal experiment."""
    blocks = [block for key, section in to_document(experiment).items() for block in _toml_blocks(key, section)]
    return "\n".join(blocks)


def differences(a: Experiment, b: Experiment) -> tuple[str, ...]:
    """One line a differing key, sorted: ``training.lr: 0.001 -> 0.003``."""
    before, after = flat(to_document(a)), flat(to_document(b))
    pairs = [(key, _shown(before.get(key)), _shown(after.get(key))) for key in sorted(before.keys() | after.keys())]
    return tuple(f"{key}: {old} -> {new}" for key, old, new in pairs if old != new)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        rule = "an experiment is a TOML file or the name of a built-in one"
        hint = f"a path that exists, or a built-in experiment: {', '.join(_built_in_names()) or 'none is installed'}"
        raise ExperimentError(f"{path} does not exist", value=str(path), rule=rule, hint=hint) from error
    except (OSError, ValueError) as error:
        rule = "an experiment is a readable TOML file in UTF-8"
        raise ExperimentError(f"{path} cannot be read: {error}", value=str(path), rule=rule) from error


def _built_in_names() -> list[str]:
    try:
        studies = resources.files("fedrelease.simulations.studies")
    except ModuleNotFoundError:
        return []
    return sorted(entry.name.removesuffix(".toml") for entry in studies.iterdir() if entry.name.endswith(".toml"))


def _parse(text: str, name: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        found = re.search(r"at line (\d+)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        what = f"{name} line {line}: this is not TOML: {error}"
        hint = 'a line such as lr = 0.001 or name = "pilot", below a section such as [training]'
        raise ExperimentError(what, rule="an experiment is written in TOML", hint=hint) from error


def _parses(text: str) -> Mapping[str, object] | None:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


def _place(path: KeyPath, text: str, name: str, settings: Sequence[_Setting]) -> str:
    """Where the user wrote the key: the override that set it, else the line of the file, else the file."""
    for setting in reversed(settings):
        if path[: len(setting.path)] == setting.path:
            return f"--set {setting.typed}"
    line = _line_of(text, path)
    if line is not None:
        return f"{name} line {line}"
    opened = [f"--set {setting.typed}" for setting in settings if setting.path[: len(path)] == path]
    return opened[-1] if opened else name


def _line_of(text: str, path: KeyPath) -> int | None:
    """The line where the statement that makes ``path`` starts: the shortest beginning of the file that holds it."""
    lines, start = text.split("\n"), 1
    if len(lines) > _LINES_SEARCHED:
        return None
    for number in range(1, len(lines) + 1):
        beginning = _parses("\n".join(lines[:number]))
        if beginning is None:  # inside a statement of several lines
            continue
        if _at(beginning, path) is not None:
            return start
        start = number + 1
    return None


def _at(value: object, path: KeyPath) -> object | None:
    """What lies at ``path``, or ``None``."""
    for part in path:
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and _is_index(part, value):
            value = value[int(part)]
        else:
            return None
    return value


def _is_index(part: str, items: Sequence[object]) -> bool:
    return part in map(str, range(len(items)))


def _setting(typed: str) -> _Setting:
    key, equals, value = typed.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path) or not is_unicode(typed):
        typed = typed.encode(errors="backslashreplace").decode()
        what, rule = f"--set {typed}: this is no key and value", "an override is KEY=VALUE with a dotted key"
        raise ExperimentError(what, value=typed, rule=rule, hint="--set training.lr=0.001")
    return _Setting(path=path, value=value.strip(), typed=typed)


def _apply(raw: dict[str, object], setting: _Setting) -> None:
    """Write one override into the raw values; whether its key is known is the reader's business."""
    container: object = raw
    try:
        for depth in range(1, len(setting.path)):
            container = _opened(container, setting.path[:depth])
        _put(container, setting)
    except Misfit as misfit:
        raise misfit.at(f"--set {setting.typed}") from misfit


def _put(container: object, setting: _Setting) -> None:
    wanted, last = wanted_at(setting.path), setting.path[-1]
    value = _override_value(setting.value, wanted)
    if isinstance(container, list):
        container[_index(container, setting.path)] = value
    elif setting.value == "none" and NoneType in get_args(wanted):
        cast(dict[str, object], container).pop(last, None)
    else:
        cast(dict[str, object], container)[last] = value


def _opened(container: object, path: KeyPath) -> object:
    """The table or list at ``path``, the last part of which is looked up in ``container``; made when it is missing."""
    if isinstance(container, list):
        inner = container[_index(container, path)]
    else:
        table = cast(dict[str, object], container)
        if path[-1] not in table:
            table[path[-1]] = _at(to_document(Experiment()), path) or {}
        if wanted_at(path) is StrategyChoice and isinstance(table[path[-1]], str):
            table[path[-1]] = {"name": table[path[-1]]}
        inner = table[path[-1]]
    if not isinstance(inner, dict | list):
        raise Misfit(path, f"{dotted(path)} has no keys in it", value=inner, rule="only a section has keys", hint="")
    return inner


def _index(items: Sequence[object], path: KeyPath) -> int:
    if _is_index(path[-1], items):
        return int(path[-1])
    last = len(items) - 1
    numbers = f"0 to {last}" if last > 0 else "0 only" if last == 0 else "none, the list is empty"
    rule = f"the numbers in {dotted(path[:-1])} are {numbers}"
    hint = dotted((*path[:-1], str(max(last, 0))))
    raise Misfit(path, f"{dotted(path)} is out of range", value=path[-1], rule=rule, hint=hint)


def _override_value(text: str, wanted: object) -> object:
    """The TOML value of ``text``, else the bare text; text stays text where text is wanted (``name=2024``)."""
    parsed = _parses(f"value = {text}")
    value = parsed["value"] if parsed is not None and len(parsed) == 1 else text
    return text if wanted is str and not isinstance(value, str) else value


def _shown(value: Json) -> str:
    return "left out" if value is None else _toml_value(value)


def _toml_blocks(key: str, section: Json) -> Iterator[str]:
    """``[key]`` and its nested sections, or one ``[[key]]`` for each item of a list."""
    if isinstance(section, list):
        for item in section:
            yield _toml_block(f"[[{key}]]", cast(Mapping[str, Json], item))
        return
    table = cast(Mapping[str, Json], section)
    inner = {name: value for name, value in table.items() if _is_inner(f"{key}.{name}", value)}
    yield _toml_block(f"[{key}]", {name: value for name, value in table.items() if name not in inner})
    for name, value in inner.items():
        yield from _toml_blocks(f"{key}.{name}", value)


def _is_inner(key: str, value: Json) -> bool:
    """Whether it is a section of its own, and no table of values such as ranks by site."""
    return isinstance(value, Mapping) and get_origin(wanted_at(tuple(key.split(".")))) is not Mapping


def _toml_block(header: str, table: Mapping[str, Json]) -> str:
    return "\n".join([header, *(f"{key} = {_toml_value(value)}" for key, value in table.items()), ""])


def _toml_value(value: Json) -> str:
    if isinstance(value, Mapping):
        if list(value) == ["name"] and isinstance(value["name"], str):  # a strategy without knobs
            return _toml_value(value["name"])
        pairs = ", ".join(f"{_toml_key(key)} = {_toml_value(inner)}" for key, inner in value.items())
        return f"{{ {pairs} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower()


def _toml_key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _toml_value(key)
