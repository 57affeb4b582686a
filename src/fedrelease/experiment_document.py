"""The experiment as plain values: one strict reader and one writer over the dataclasses' own type hints.

A new key in ``experiment_sections.py`` needs no code here. TOML, overrides and line numbers are the business of
``experiment_file.py``.

Example::

    document = to_document(Experiment())                          # what the server sends to its sites
    from_document(json.loads(json.dumps(document)))               # an equal experiment
"""

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import TypeAlias, TypeVar, cast, get_args, get_origin, get_type_hints

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment, StrategyChoice
from fedrelease.files import Json, canonical_bytes, digest_bytes

__all__ = [
    "KeyPath",
    "Misfit",
    "dotted",
    "experiment_digest",
    "flat",
    "from_document",
    "is_unicode",
    "read_experiment",
    "to_document",
    "wanted_at",
]

KeyPath: TypeAlias = tuple[str, ...]  # ("phase", "0", "rounds")
T = TypeVar("T")

_TOML_NAMES = {"phases": "phase"}  # field -> key in the file, where the two differ
_NOT_COUNTED: tuple[KeyPath, ...] = (("federation", "store"), ("retention",))
_COUNTED_WHERE_SET: tuple[KeyPath, ...] = (
    ("federation", "evaluators"),
    ("data", "partition", "rows"),
    ("model", "adapter", "residual"),
    ("virtual_time",),
    ("attack",),
)
_LEFT_OUT_WHERE_DEFAULT: tuple[KeyPath, ...] = (
    ("transport",),
    ("transport", "down"),
    ("model", "batch_norm"),
    ("model", "adapter", "rank_stabilised"),
    ("model", "adapter", "tokens"),
    ("model", "adapter", "own_rank"),
    ("data", "pixels"),
    ("training", "label_smoothing"),
    ("training", "balance_classes"),
    ("training", "dropout"),
    ("training", "keep_best"),
    ("training", "checkpointing"),
    ("training", "augment"),
    ("data", "chat"),
    ("data", "target"),
)
"""Sections and keys that came after the first releases, which hold the resolved file: not written with their defaults."""
_TYPE_NAMES = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
_KNOB = float | int | bool | str


class Misfit(Exception):
    """A key that does not fit, before anyone knows where it was written."""

    def __init__(self, path: KeyPath, what: str, *, value: object, rule: str, hint: str) -> None:
        """Keep the key's path beside the four parts of the error to come."""
        self.path, self.what, self.value, self.rule, self.hint = path, what, value, rule, hint
        super().__init__(what)

    def at(self, place: str) -> ExperimentError:
        """The error for the user, opening with the place of the key."""
        return ExperimentError(f"{place}: {self.what}", value=self.value, rule=self.rule, hint=self.hint)


def read_experiment(raw: Mapping[str, object]) -> Experiment:
    """The experiment of raw TOML or JSON values; keys that are left out take their defaults.

    Raises:
        Misfit: a key is unknown, of the wrong type or out of bounds. The caller knows where it was written.
    """
    return _read_section(Experiment, raw, ())


def to_document(experiment: Experiment) -> dict[str, Json]:
    """The experiment as plain JSON values, in the shape of the TOML; keys that are ``None``, tables with nothing in them,
    and sections that came later and have their defaults, are left out.

    Send it with ``json.dumps``: ``canonical_bytes`` is for digests only, since it turns floats into text.
    """
    document, defaults = (cast(dict[str, Json], _plain(Experiment, one)) for one in (experiment, Experiment()))
    for path in _LEFT_OUT_WHERE_DEFAULT:
        if path[0] in document and _section(document, path)[path[-1]] == _section(defaults, path)[path[-1]]:
            _section(document, path).pop(path[-1])
    return document


def from_document(document: Mapping[str, object]) -> Experiment:
    """The experiment that ``to_document`` described.

    Raises:
        ExperimentError: a key is unknown, missing, of the wrong type or out of bounds: nothing is filled in.
    """
    try:
        experiment = read_experiment(document)
    except Misfit as misfit:
        raise misfit.at("the experiment document") from misfit
    missing = sorted(flat(to_document(experiment)).keys() - flat(cast(Json, document)).keys())
    if missing:
        raise ExperimentError(
            "the experiment document lacks keys",
            value=missing,
            rule="a document carries every key, so that both sides mean the same experiment",
            hint="run the same fedrelease version on both sides",
        )
    return experiment


def experiment_digest(experiment: Experiment) -> str:
    """The sha256, 64 hexadecimal digits, of all that decides the result: everything but where the store lies and how long it
    keeps what.

    A key that came after the first stores and ledgers counts only where it is set to something: with its default it changes
    nothing, and no ledger shall meet an experiment that it knows as another one.
    """
    document, defaults = to_document(experiment), to_document(Experiment())
    for path in _NOT_COUNTED:
        _section(document, path).pop(path[-1], None)
    for path in _COUNTED_WHERE_SET:
        if _section(document, path)[path[-1]] == _section(defaults, path)[path[-1]]:
            _section(document, path).pop(path[-1])
    return digest_bytes(canonical_bytes(document))


def _section(document: dict[str, Json], path: KeyPath) -> dict[str, Json]:
    """The section that holds the key at ``path``."""
    for part in path[:-1]:
        document = cast(dict[str, Json], document[part])
    return document


def flat(value: Json, path: KeyPath = ()) -> dict[str, Json]:
    """Dotted key -> value; a list of scalars is one value."""
    if isinstance(value, Mapping):
        inner: Sequence[tuple[str, Json]] = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        inner = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {dotted(path): value}
    return {key: leaf for name, item in inner for key, leaf in flat(item, (*path, name)).items()}


def dotted(path: KeyPath) -> str:
    """``training.lr``, in characters that every message can carry."""
    return ".".join(path).encode(errors="backslashreplace").decode()


def _fields(section: type) -> Mapping[str, tuple[str, object]]:
    """Key in the file -> field name and type of one dataclass."""
    hints = get_type_hints(section)
    return {_TOML_NAMES.get(field.name, field.name): (field.name, hints[field.name]) for field in fields(section)}


def _is_section(wanted: object) -> bool:
    return isinstance(wanted, type) and is_dataclass(wanted)


def wanted_at(path: KeyPath) -> object:
    """The type that belongs at ``path``, or ``None``."""
    wanted: object = Experiment
    for part in path:
        wanted = _listed(wanted)
        if _is_section(wanted):
            wanted = _fields(cast(type, wanted)).get(part, ("", None))[1]
        else:
            kind, inside = get_origin(wanted), get_args(wanted)
            wanted = inside[0] if kind is tuple else inside[1] if kind is Mapping else None
    return wanted


def _listed(wanted: object) -> object:
    """The type of the list or table of ``tuple[X, ...] | None``; any other type as it is."""
    lists = [kind for kind in get_args(wanted) if get_origin(kind) in (tuple, Mapping)]
    return lists[0] if isinstance(wanted, UnionType) and lists else wanted


def _read(wanted: object, raw: object, path: KeyPath) -> object:
    wanted = _listed(wanted)
    if wanted is StrategyChoice:
        return _read_choice(raw, path)
    if _is_section(wanted):
        return _read_section(cast(type, wanted), raw, path)
    if get_origin(wanted) is tuple:
        return _read_list(get_args(wanted)[0], raw, path)
    if get_origin(wanted) is Mapping:
        return _read_table(get_args(wanted)[1], raw, path)
    return _read_scalar(wanted, raw, path)


def _read_section(section: type[T], raw: object, path: KeyPath) -> T:
    if not isinstance(raw, Mapping):
        raise _wrong_type(path, raw, f"a section such as [{dotted(path)}]")
    known = _fields(section)
    for key in raw:
        if key not in known:
            raise _unknown(section, (*path, str(key)))
    values = {known[key][0]: _read(known[key][1], value, (*path, key)) for key, value in raw.items()}
    return _built(section, values, path)


def _read_choice(raw: object, path: KeyPath) -> StrategyChoice:
    """``"fedavg"``, or a table with a name and knobs; which knobs exist is the strategies' business."""
    if isinstance(raw, str):
        return _built(StrategyChoice, {"name": _read_scalar(str, raw, path)}, path)
    if not isinstance(raw, Mapping):
        raise _wrong_type(path, raw, 'a name such as "fedavg", or a table such as { name = "fedadam", lr = 0.01 }')
    name = {"name": _read_scalar(str, raw["name"], (*path, "name"))} if "name" in raw else {}
    knobs = {str(key): _read_scalar(_KNOB, raw[key], (*path, str(key))) for key in raw if key != "name"}
    return _built(StrategyChoice, {**name, "knobs": knobs}, path)


def _read_list(item: object, raw: object, path: KeyPath) -> tuple[object, ...]:
    if not isinstance(raw, list):
        example = f"a list: [[{dotted(path)}]]" if _is_section(item) else 'a list such as ["a", "b"]'
        raise _wrong_type(path, raw, example)
    return tuple(_read(item, value, (*path, str(index))) for index, value in enumerate(raw))


def _read_table(item: object, raw: object, path: KeyPath) -> dict[str, object]:
    if not isinstance(raw, Mapping):
        raise _wrong_type(path, raw, "a table such as { a = 4, b = 8 }")
    names = {key: cast(str, _read_scalar(str, key, (*path, ascii(key)))) for key in raw}
    return {name: _read(item, raw[key], (*path, name)) for key, name in names.items()}


def _read_scalar(wanted: object, raw: object, path: KeyPath) -> object:
    kinds = [kind for kind in get_args(wanted) or (wanted,) if kind is not NoneType]
    if type(raw) is int and not -(2**63) <= raw < 2**63:
        raise _wrong_type(path, "a whole number of more than 64 bits", "a whole number of at most 64 bits")
    if isinstance(raw, str) and not is_unicode(raw):
        raise _wrong_type(path, ascii(raw), "text that UTF-8 can write")
    if type(raw) in kinds:
        return raw
    if type(raw) is int and float in kinds:
        return float(raw)
    names = [_TYPE_NAMES[kind] for kind in kinds if not (kind is int and float in kinds)]
    raise _wrong_type(path, raw, " or ".join(names))


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can write the text; half of a surrogate pair it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _built(section: Callable[..., T], values: Mapping[str, object], path: KeyPath) -> T:
    """Make the dataclass; its own bounds speak with the key's full path."""
    try:
        return section(**values)
    except ExperimentError as error:
        name = error.what.removesuffix(" is out of bounds")
        prefix = "".join(f"{part}." for part in path if not part.isdecimal())  # the dataclass knows no phase number
        key = (*path, *name.removeprefix(prefix).split("."))
        what = f"{dotted(key)} is out of bounds"
        raise Misfit(key, what, value=error.value, rule=error.rule, hint=error.hint) from error


def _wrong_type(path: KeyPath, value: object, wanted: str) -> Misfit:
    what, rule = f"{dotted(path)} has the wrong type", f"{dotted(path)} is {wanted}"
    given = reprlib.repr(value) if isinstance(value, list | Mapping) else value
    hint = 'put text in quotes: "..."' if wanted == "text" else f"give {wanted}, or leave the key out for its default"
    return Misfit(path, what, value=given, rule=rule, hint=hint)


def _unknown(section: type, path: KeyPath) -> Misfit:
    parent, known = path[:-1], sorted(_fields(section))
    rule = f"{f'the keys of [{dotted(parent)}]' if parent else 'the sections'} are {', '.join(known)}"
    hint = _nearest(path, known)
    return Misfit(path, f"{dotted(path)} is not a known key", value=dotted(path), rule=rule, hint=hint)


def _nearest(path: KeyPath, known: Sequence[str]) -> str:
    """The dotted name that was meant: very similar beside it, the same elsewhere, or similar beside it."""
    elsewhere = [dotted(key) for key in _keys(Experiment, ()) if key[-1] == path[-1]]
    beside = {
        cutoff: [dotted((*path[:-1], key)) for key in get_close_matches(path[-1].lower(), known, n=1, cutoff=cutoff)]
        for cutoff in (0.8, 0.5)
    }
    return " or ".join(beside[0.8] or elsewhere or beside[0.5]) or "one of these names"


def _keys(section: type, path: KeyPath) -> Iterator[KeyPath]:
    for key, (_, wanted) in _fields(section).items():
        item = get_args(wanted)[0] if get_origin(wanted) is tuple else wanted
        index = ("0",) if item is not wanted and _is_section(item) else ()
        yield (*path, key)
        if _is_section(item):
            yield from _keys(cast(type, item), (*path, key, *index))


def _plain(wanted: object, value: object) -> Json:
    if isinstance(value, StrategyChoice):
        return {"name": value.name, **dict(sorted(value.knobs.items()))}
    if is_dataclass(value):
        pairs = [(key, hint, getattr(value, name)) for key, (name, hint) in _fields(type(value)).items()]
        plain = {key: _plain(hint, inner) for key, hint, inner in pairs if inner is not None}
        return {key: inner for key, inner in plain.items() if inner != {}}
    if isinstance(value, Mapping):
        return {key: _plain(get_args(_listed(wanted))[1], inner) for key, inner in sorted(value.items())}
    if isinstance(value, tuple):
        return [_plain(get_args(_listed(wanted))[0], inner) for inner in value]
    kinds = get_args(wanted) or (wanted,)
    if float in kinds and int not in kinds:
        return float(cast(float, value)) + 0.0  # 1 becomes 1.0 and -0.0 becomes 0.0: equal experiments, equal digests
    return cast(Json, value)
