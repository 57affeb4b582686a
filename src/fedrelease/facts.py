"""Frozen dataclasses of plain facts as canonical JSON and back, strict in both directions.

A field may be ``str``, ``int``, ``bool``, ``float``, ``None``, another such dataclass, ``tuple[X, ...]``,
``Mapping[str, X]`` or a union of these. In JSON a float is its shortest decimal text; the type of the field turns it
back into a float.

Example::

    @dataclass(frozen=True, kw_only=True)
    class Pointer:
        digest: str

    to_bytes(Pointer(digest="sha256:ab"))                 # b'{"digest":"sha256:ab"}'
    from_bytes(Pointer, b'{"digest":"sha256:ab"}')        # Pointer(digest='sha256:ab')
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import TypeVar, cast, get_args, get_origin, get_type_hints

from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.files import Json, canonical_bytes

__all__ = ["LATER", "from_bytes", "to_bytes"]

Fact = TypeVar("Fact")


LATER: Mapping[str, bool] = {"came later": True}
"""Metadata of a field that older files do not have: left out where it has its default, so that their bytes mean the same."""


def to_bytes(fact: object) -> bytes:
    """The one byte form of a dataclass of facts.

    Raises:
        StoreError: a value does not fit its field's type, or is NaN or infinite; the message names the field.
    """
    try:
        return canonical_bytes(cast(Json, _walk(type(fact), fact, type(fact).__name__, _ENCODE)))
    except ValueError as error:
        raise StoreError(f"{type(fact).__name__} has no canonical form: {error}") from error


def from_bytes(kind: type[Fact], data: bytes) -> Fact:
    """The facts behind ``data``.

    Guarantees: ``to_bytes`` of the result is ``data`` again, so that two byte strings never mean the same facts.

    Raises:
        DamagedRelease: not JSON, a key unknown or missing, a value of the wrong type, or not the canonical form.
    """
    try:
        fact = cast(Fact, _walk(kind, json.loads(data), kind.__name__, _DECODE))
        canonical = to_bytes(fact) == data
    except StoreError as error:
        raise DamagedRelease(error.what, value=error.value, rule=error.rule, hint=error.hint) from error
    except (ValueError, RecursionError) as error:
        raise DamagedRelease(f"{kind.__name__} is not readable JSON: {error}") from error
    if not canonical:
        raise DamagedRelease(f"{kind.__name__} is not in its canonical form", rule="sorted keys, no spaces, UTF-8")
    return fact


@dataclass(frozen=True, kw_only=True)
class _Direction:
    """What differs between writing facts and reading them."""

    scalar: Callable[[object, object, str], object]
    sequence: type[tuple[object, ...]] | type[list[object]]
    record: Callable[[type, object, str], object]


def _refuse(where: str, value: object, rule: str) -> StoreError:
    return StoreError(f"{where} is wrong", value=value, rule=f"{where} {rule}")


def _walk(hint: object, value: object, where: str, way: _Direction) -> object:
    origin, arguments, record = _kind(hint)
    if record and isinstance(hint, type):
        return way.record(hint, value, where)
    if origin is UnionType:
        return _walk_union(arguments, value, where, way)
    if origin is tuple:
        return _walk_sequence(arguments[0], value, where, way)
    if origin is Mapping:
        return _walk_mapping(arguments[1], value, where, way)
    return way.scalar(hint, value, where)


@cache
def _kind(hint: object) -> tuple[object, tuple[object, ...], bool]:
    """What a type is made of, and whether it is a dataclass; asked for every value of every manifest."""
    return get_origin(hint), get_args(hint), isinstance(hint, type) and is_dataclass(hint)


def _walk_sequence(hint: object, value: object, where: str, way: _Direction) -> tuple[object, ...]:
    if not isinstance(value, way.sequence):
        raise _refuse(where, value, f"is a {way.sequence.__name__}")
    return tuple(_walk(hint, item, f"{where}[{at}]", way) for at, item in enumerate(value))


def _walk_mapping(hint: object, value: object, where: str, way: _Direction) -> dict[str, object]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _refuse(where, value, "maps text to values")
    return {key: _walk(hint, item, f"{where}.{key}", way) for key, item in value.items()}


def _walk_union(options: tuple[object, ...], value: object, where: str, way: _Direction) -> object:
    """Try the narrow types first: the text of a float is a float wherever the union has floats."""
    narrow = [option for option in (NoneType, bool, int, float) if option in options]
    wide = [option for option in options if option not in narrow]
    for option in (*narrow, *wide[:-1]):
        try:
            return _walk(option, value, where, way)
        except StoreError:
            continue
    if way is _ENCODE and float in options and isinstance(value, str) and _reads_as_float(value):
        raise _refuse(where, value, "is no text that reads as a decimal number, since floats are written so")
    return _walk((wide or narrow)[-1], value, where, way)


@cache
def _fields(kind: type) -> Mapping[str, object]:
    return get_type_hints(kind)


@cache
def _later(kind: type) -> Mapping[str, object]:
    """Field that came later -> its default."""
    return {one.name: one.default for one in fields(kind) if one.metadata.keys() >= LATER.keys()}


def _encode_record(kind: type, value: object, where: str) -> dict[str, object]:
    known, later = _fields(kind), _later(kind)
    if type(value) is not kind:
        raise _refuse(where, value, f"is a {kind.__name__}")
    every = {name: getattr(value, name) for name in known}
    told = {name: inner for name, inner in every.items() if name not in later or inner != later[name]}
    return {name: _walk(known[name], inner, f"{where}.{name}", _ENCODE) for name, inner in told.items()}


def _decode_record(kind: type, value: object, where: str) -> object:
    known = _fields(kind)
    if not isinstance(value, dict):
        raise _refuse(where, value, "is an object")
    if wrong := sorted((value.keys() ^ known.keys()) - (_later(kind).keys() - value.keys())):
        what = "is missing" if wrong[0] in known else "is unknown"
        raise StoreError(f"{where}.{wrong[0]} {what}", rule=f"the keys are {', '.join(sorted(known))}")
    return kind(**{name: _walk(known[name], inner, f"{where}.{name}", _DECODE) for name, inner in value.items()})


def _plain(hint: object, value: object, where: str) -> object:
    """Text, whole numbers, truth values and None are the same in both directions."""
    if type(value) is hint:
        return value
    raise _refuse(where, value, f"is of type {getattr(hint, '__name__', hint)}")


def _encode_scalar(hint: object, value: object, where: str) -> object:
    if hint is not float:
        return _plain(hint, value, where)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _refuse(where, value, "is a finite number")
    return float(value)


def _decode_scalar(hint: object, value: object, where: str) -> object:
    if hint is not float:
        return _plain(hint, value, where)
    if not isinstance(value, str) or not _reads_as_float(value):
        raise _refuse(where, value, "is a finite number in its shortest decimal text")
    return float(value)


def _reads_as_float(text: str) -> bool:
    try:
        number = float(text)
    except ValueError:
        return False
    return math.isfinite(number) and repr(number) == text


_ENCODE = _Direction(scalar=_encode_scalar, sequence=tuple, record=_encode_record)
_DECODE = _Direction(scalar=_decode_scalar, sequence=list, record=_decode_record)
