"""The manifest of a release: one frozen fact with one byte form, whose sha256 is the release's identity.

It holds no time and no duration, so that the same seed gives the same digest.

Example::

    manifest = Manifest.from_bytes(blob)
    manifest.version, manifest.digest                        # ('0.1.3', 'sha256:5e1f...')
    assert manifest.to_bytes() == blob
    sorted(["0.10.0", "0.9.1"], key=version_key)             # ['0.9.1', '0.10.0']
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import NamedTuple

from fedrelease import facts
from fedrelease.errors import StoreError
from fedrelease.files import digest_bytes
from fedrelease.privacy import Receipt

__all__ = [
    "RESIDUAL",
    "ROLES",
    "SCHEMA",
    "VERDICTS",
    "Accepted",
    "AdapterFacts",
    "BaseFacts",
    "FederationFacts",
    "FileEntry",
    "Manifest",
    "MetricsFacts",
    "PrivacyFacts",
    "Refused",
    "TaskFacts",
    "Version",
    "check_digest",
    "check_sha256",
    "parse_version",
    "version_key",
]

SCHEMA = 1
RESIDUAL = "lora_residual"
"""The server's metric of how far a release is from the mean of the sites' LoRA products, in its worst layer."""
ROLES = ("adapter", "config", "doc", "items", "memory", "rng", "tokenizer", "weights")
VERDICTS = ("held", "released")
_NUMBER = r"(0|[1-9][0-9]{0,8})"
_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}", re.ASCII)


class Version(NamedTuple):
    """MAJOR rises with the interface, MINOR with the phase, PATCH with the round. Orders as numbers do."""

    major: int
    minor: int
    patch: int


def parse_version(text: str) -> Version:
    """The three numbers of a version such as ``0.1.3``.

    Raises:
        StoreError: not three whole numbers without leading zeros.
    """
    found = _VERSION.fullmatch(text)
    if found is None:
        raise StoreError("no such version number", value=text, rule="a version is MAJOR.MINOR.PATCH, as in 0.1.3")
    return Version(*(int(number) for number in found.groups()))


def version_key(version: str) -> tuple[int, int, int]:
    """What to sort versions by: ``0.10.0`` comes after ``0.9.1``."""
    return parse_version(version)


def check_sha256(text: str) -> str:
    """``text`` when it is 64 lower-case hexadecimal digits.

    Raises:
        StoreError: it is not.
    """
    if re.fullmatch("[0-9a-f]{64}", text) is None:
        raise StoreError("no sha256", value=text, rule="a sha256 is 64 hexadecimal digits in lower case")
    return text


def check_digest(text: str) -> str:
    """The 64 hexadecimal digits behind ``sha256:``.

    Raises:
        StoreError: ``text`` is not a digest.
    """
    kind, _, sha256 = text.partition(":")
    if kind != "sha256":
        raise StoreError("no digest", value=text, rule='a digest is "sha256:" and 64 hexadecimal digits')
    return check_sha256(sha256)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise StoreError(f"unknown {name}", value=value, rule=f"{name} is one of {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a release. ``path`` is POSIX and stays below the release; ``size`` is in bytes."""

    path: str
    sha256: str
    size: int
    role: str

    def __post_init__(self) -> None:
        """Check bounds; a path that could leave its folder on export is refused."""
        parts = PurePosixPath(self.path).parts
        plain = bool(parts) and self.path == "/".join(parts) and not {"..", "/"} & set(parts)
        if not plain or "\\" in self.path or "\0" in self.path or ":" in parts[0]:
            raise StoreError("no file path of a release", value=self.path, rule="relative, POSIX, without '..'")
        check_sha256(self.sha256)
        _one_of("role", self.role, ROLES)
        if self.size < 0:
            raise StoreError("no size", value=self.size, rule="bytes, at least 0")


@dataclass(frozen=True, kw_only=True)
class BaseFacts:
    """The frozen base: where it came from, and path -> sha256 of its files. An adapter refuses any other base."""

    ref: str
    files: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class AdapterFacts:
    """What is trained and released. ``tokens``: learned vectors of a prompt or prefix; 0 for other kinds.

    ``own_rank``: of the pair of factors that each site keeps to itself; in the release it adds nothing.
    """

    kind: str
    rank: int
    alpha: float
    targets: str
    layers: str
    rank_stabilised: bool = field(default=False, metadata=facts.LATER)
    tokens: int = field(default=0, metadata=facts.LATER)
    own_rank: int = field(default=0, metadata=facts.LATER)


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """What the model is for. ``max_length`` in tokens; ``tokenizer`` is a sha256."""

    name: str
    labels: tuple[str, ...]
    max_length: int
    tokenizer: str


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A site whose update counts; ``examples`` is None where the site keeps the number private."""

    site: str
    update: str
    examples: int | None


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A site whose answer does not count, and why."""

    site: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class FederationFacts:
    """Who took part and how updates became a state. Lists are in order of site name."""

    name: str
    strategy: str
    strategy_params: Mapping[str, float | int | bool | str]
    cohort: tuple[str, ...]
    accepted: tuple[Accepted, ...]
    refused: tuple[Refused, ...]


@dataclass(frozen=True, kw_only=True)
class PrivacyFacts:
    """What was promised and spent: both epsilons are those of the worst site, at ``delta``."""

    unit: str
    mechanism: str
    clip: float
    accountant: str
    delta: float
    epsilon_round: float
    epsilon_total: float
    noise: str
    sites: tuple[Receipt, ...]


@dataclass(frozen=True, kw_only=True)
class MetricsFacts:
    """What the server measured, and what sites chose to tell about their own hold-outs."""

    server: Mapping[str, float] = field(default_factory=dict)
    mean: Mapping[str, float] = field(default_factory=dict)
    worst: Mapping[str, float] = field(default_factory=dict)
    worst_site: str | None = None
    sites: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts of one release. Every field is public.

    Attributes:
        verdict: of the gates at publishing: ``released`` or ``held``.
        round: counted through all phases; 0 is the base, version 0.0.0.
        parents: digests of the releases that this one was made from.

    Guarantees: equal manifests have equal bytes and digests; ``from_bytes(m.to_bytes()) == m``.
    """

    name: str
    version: str
    verdict: str
    phase: str
    round: int
    parents: tuple[str, ...]
    files: tuple[FileEntry, ...]
    base: BaseFacts
    adapter: AdapterFacts
    task: TaskFacts
    federation: FederationFacts
    privacy: PrivacyFacts | None
    metrics: MetricsFacts
    environment: Mapping[str, str]
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Check what no reader should have to check again."""
        if self.schema != SCHEMA:
            hint = "update fedrelease" if self.schema > SCHEMA else ""
            raise StoreError("unknown manifest schema", value=self.schema, rule=f"this is schema {SCHEMA}", hint=hint)
        parse_version(self.version)
        _one_of("verdict", self.verdict, VERDICTS)
        for parent in self.parents:
            check_digest(parent)
        if self.round < 0:
            raise StoreError("no round", value=self.round, rule="rounds count from 0, the base")
        if len({entry.path for entry in self.files}) < len(self.files):
            raise StoreError("a file path appears twice", value=[entry.path for entry in self.files])

    @property
    def digest(self) -> str:
        """The identity of the release: ``sha256:`` and the sha256 of the canonical bytes."""
        return f"sha256:{digest_bytes(self.to_bytes())}"

    def to_bytes(self) -> bytes:
        """The one byte form: sorted keys, no spaces, UTF-8, floats as decimal text."""
        return self._bytes

    @cached_property
    def _bytes(self) -> bytes:
        """Formed once: a round of a thousand sites makes a long manifest, and its digest is asked for again and again."""
        return facts.to_bytes(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Read the one byte form.

        Raises:
            DamagedRelease: a key is unknown or missing, a value has the wrong type, or the form is not canonical.
        """
        return facts.from_bytes(cls, data)
