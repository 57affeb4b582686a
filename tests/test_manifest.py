"""The manifest's one byte form, and how strictly it is read. See tests/server for manifests inside of a store."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import examples
import pytest
from examples import SHA
from hypothesis import given
from hypothesis import strategies as st

from fedrelease import facts
from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.files import digest_bytes
from fedrelease.manifest import Accepted, FileEntry, Manifest, MetricsFacts, parse_version, version_key

MANIFEST = replace(
    examples.MANIFEST,
    parents=(f"sha256:{SHA}",),
    federation=replace(
        examples.MANIFEST.federation,
        cohort=("nørd", "south"),
        accepted=(Accepted(site="nørd", update=SHA, examples=None),),
    ),
    metrics=MetricsFacts(worst={"accuracy": 0.1 + 0.2}, worst_site="south", sites={"south": {"accuracy": -0.0}}),
    environment={"python": "3.11"},
)


def changed(change: Callable[[Any], object]) -> bytes:
    """The manifest's JSON after a change, in canonical form."""
    document = json.loads(MANIFEST.to_bytes())
    change(document)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_what_is_written_is_read_back_exactly() -> None:
    assert Manifest.from_bytes(MANIFEST.to_bytes()) == MANIFEST
    assert Manifest.from_bytes(MANIFEST.to_bytes()).federation.strategy_params == {
        "lr": 0.01,
        "steps": 3,
        "nesterov": True,
        "mode": "fast",
    }
    without = replace(MANIFEST, privacy=None)
    assert Manifest.from_bytes(without.to_bytes()) == without


def test_the_bytes_are_canonical_with_floats_as_decimal_text() -> None:
    data = MANIFEST.to_bytes()
    assert data == changed(lambda document: None)
    assert json.loads(data)["metrics"]["worst"]["accuracy"] == "0.30000000000000004"
    assert json.loads(data)["privacy"]["delta"] == "1e-05"
    assert "nørd".encode() in data


def test_the_digest_is_the_sha256_of_the_bytes() -> None:
    assert MANIFEST.digest == f"sha256:{digest_bytes(MANIFEST.to_bytes())}"
    assert replace(MANIFEST, adapter=replace(MANIFEST.adapter, alpha=16)).digest == MANIFEST.digest
    assert replace(MANIFEST, round=2).digest != MANIFEST.digest


def test_the_order_of_a_mappings_keys_does_not_change_the_digest() -> None:
    one, other = ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    assert replace(MANIFEST, environment=one).digest == replace(MANIFEST, environment=other).digest


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda d: d.update(extra=1), r"Manifest\.extra is unknown"),
        (lambda d: d.pop("phase"), r"Manifest\.phase is missing"),
        (lambda d: d["adapter"].pop("rank"), r"adapter\.rank is missing"),
        (lambda d: d["files"][0].update(mode=1), r"files\[0\]\.mode is unknown"),
        (lambda d: d.update(round="1"), r"Manifest\.round is wrong"),
        (lambda d: d.update(round=True), r"Manifest\.round is wrong"),
        (lambda d: d.update(round=-1), "no round"),
        (lambda d: d["adapter"].update(alpha=16), r"adapter\.alpha is wrong"),
        (lambda d: d["adapter"].update(alpha="16"), r"adapter\.alpha is wrong"),
        (lambda d: d["adapter"].update(alpha="nan"), r"adapter\.alpha is wrong"),
        (lambda d: d.update(files={}), r"Manifest\.files is wrong"),
        (lambda d: d.update(environment=[]), r"Manifest\.environment is wrong"),
        (lambda d: d.update(base=None), r"Manifest\.base is wrong"),
        (lambda d: d.update(verdict="maybe"), "unknown verdict"),
        (lambda d: d.update(version="0.1"), "no such version"),
        (lambda d: d.update(parents=["ab"]), "no digest"),
        (lambda d: d["files"][0].update(role="virus"), "unknown role"),
        (lambda d: d["files"][0].update(sha256="A" * 64), "no sha256"),
        (lambda d: d["files"].append(d["files"][0]), "twice"),
        (lambda d: d.update(schema=2), "schema.*update fedrelease"),
    ],
)
def test_anything_but_the_exact_shape_is_refused_and_named(change: Callable[[Any], object], what: str) -> None:
    with pytest.raises(DamagedRelease, match=what):
        Manifest.from_bytes(changed(change))


@pytest.mark.parametrize("data", [b"", b"{", b"null", b"[]", b"\xff", b"[" * 99999, b"1" * 9999, b"NaN", b'"\\ud800"'])
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedRelease):
        Manifest.from_bytes(data)


def test_other_bytes_for_the_same_facts_are_refused() -> None:
    data = MANIFEST.to_bytes()
    for other in (
        data + b"\n",
        data.replace(b",", b", ", 1),
        data[:-1] + b',"round":1}',
        "nørd".join(part.decode() for part in data.split("nørd".encode())).encode("utf-16"),
    ):
        with pytest.raises(DamagedRelease):
            Manifest.from_bytes(other)


@given(position=st.integers(0), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_changes_the_digest(position: int, bit: int) -> None:
    data = bytearray(MANIFEST.to_bytes())
    data[position % len(data)] ^= 1 << bit
    with suppress(DamagedRelease):
        assert Manifest.from_bytes(bytes(data)).digest != MANIFEST.digest


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../up", "a/../b", "a//b", "./a", "a/", "C:/x", "a\\b", "a\0", "."]
)
def test_a_file_path_that_could_leave_the_release_is_refused(path: str) -> None:
    with pytest.raises(StoreError, match="no file path"):
        FileEntry(path=path, sha256=SHA, size=1, role="doc")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), "0.5", True, None])
def test_a_metric_that_is_no_finite_number_has_no_manifest_and_is_named(number: float) -> None:
    with pytest.raises(StoreError, match=r"Manifest\.metrics\.mean\.accuracy"):
        replace(MANIFEST, metrics=MetricsFacts(mean={"accuracy": number})).to_bytes()


def test_a_knob_whose_text_would_be_read_back_as_a_number_is_refused() -> None:
    federation = replace(MANIFEST.federation, strategy_params={"lr": "0.5"})
    with pytest.raises(StoreError, match=r"strategy_params\.lr"):
        replace(MANIFEST, federation=federation).to_bytes()


def test_text_without_a_utf8_form_is_refused() -> None:
    with pytest.raises(StoreError, match="no canonical form"):
        replace(MANIFEST, name="\ud800").to_bytes()


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """Every type that facts may have."""

    knobs: dict[str, str] | None = None
    union: tuple[float | int | bool | str, ...] = ()
    number: float | None = None


VALUES = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8")),
)


@given(union=st.lists(VALUES).map(tuple), number=st.none() | st.floats(allow_nan=False, allow_infinity=False))
def test_every_value_comes_back_with_its_type_or_is_refused(union: tuple[Any, ...], number: float | None) -> None:
    before = Knobs(union=union, number=number)
    try:
        data = facts.to_bytes(before)
    except StoreError:
        assert any(isinstance(value, str) for value in union)
        return
    assert repr(facts.from_bytes(Knobs, data)) == repr(before)


def test_versions_order_by_number() -> None:
    assert sorted(["0.10.0", "0.9.10", "1.0.0", "0.9.9"], key=version_key) == ["0.9.9", "0.9.10", "0.10.0", "1.0.0"]
    assert parse_version("0.1.3").patch == 3


@pytest.mark.parametrize(
    "text", ["", "1", "0.1", "0.1.2.3", "v0.1.2", "0.01.2", "0.1.-2", "0.1.2\n", "0.1.²", "0.1." + "9" * 10]
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match=r"MAJOR\.MINOR\.PATCH"):
        parse_version(text)
