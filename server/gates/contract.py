"""What a gate says: findings with evidence, and the report whose verdict is the worst of those that block.

Example::

    report = GateReport(version="0.1.3", digest=digest, findings=findings, evaluation=sha256, looks=4)
    report.verdict, report.sentence              # ('inconclusive', 'held: quality ... is undecided; 3092 items would ...')
    GateReport.from_bytes(report.to_bytes()) == report
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fedrelease import facts
from fedrelease.errors import StoreError
from fedrelease.files import Json
from fedrelease.gate_rules import SEVERITIES
from fedrelease.manifest import check_digest, check_sha256, parse_version

__all__ = ["SCHEMA", "SEVERITIES", "STATES", "Evidence", "Finding", "GateReport", "finding_json", "worst_state"]

SCHEMA = 1
STATES = ("pass", "fail", "inconclusive", "error", "skipped")
BY_BADNESS = ("error", "fail", "inconclusive", "pass")
"""Worst first. ``skipped`` is not among them: a gate that has nothing to compare with holds nothing."""
Evidence: TypeAlias = Mapping[str, float | int | bool | str | None]
"""The numbers behind a finding, all finite. Text never reads as a number."""


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise StoreError(f"unknown {name}", value=value, rule=f"{name} is one of {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one gate says about one slice.

    Attributes:
        gate: its name in ``fedrelease.gate_rules.GATES``.
        slice: ``overall``, ``old-labels``, ``class:<label>``, ``site:<name>``, ``worst-site`` or ``worst-decile``.
        against: what the candidate was compared with, as in ``stable 0.1.2``; None where the gate compares nothing.
        state: one of :data:`STATES`.
        severity: one of :data:`SEVERITIES`; only ``block`` holds a release.
        what: one sentence with the numbers.
        evidence: those numbers.
        needed: items or timings that would decide with 80 % power; None where more would not help, or is not asked for.
    """

    gate: str
    slice: str
    against: str | None
    state: str
    severity: str
    what: str
    evidence: Evidence
    needed: int | None

    def __post_init__(self) -> None:
        """Check bounds."""
        _one_of("state", self.state, STATES)
        _one_of("severity", self.severity, SEVERITIES)
        if wrong := [name for name, value in self.evidence.items() if isinstance(value, float) and not _finite(value)]:
            raise StoreError(f"evidence {wrong[0]} is not finite", value=self.gate, rule="such a finding is an error")
        if self.needed is not None and self.needed < 1:
            raise StoreError("no number of items", value=self.needed, rule="needed is at least 1, or None")

    @property
    def holds(self) -> bool:
        """This finding alone keeps the release from its channel."""
        return self.severity == "block" and self.state in ("error", "fail", "inconclusive")

    @property
    def subject(self) -> str:
        """What it is about: ``quality class:spam against stable 0.1.2``."""
        where = "" if self.slice == "overall" else f" {self.slice}"
        return f"{self.gate}{where}" + (f" against {self.against}" if self.against else "")


def _finite(value: float) -> bool:
    return math.isfinite(value)


def worst_state(findings: Sequence[Finding]) -> str:
    """The worst state of those that block; ``pass`` where nothing blocks."""
    states = {finding.state for finding in findings if finding.severity == "block"}
    return next((state for state in BY_BADNESS if state in states), "pass")


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """All findings about one release.

    Attributes:
        version, digest: of the release.
        evaluation: sha256 of the evaluation set; None where no gate looked at items.
        looks: how often that set was looked at until now, this time included.

    Guarantees: ``GateReport.from_bytes(report.to_bytes()) == report``, and equal reports have equal bytes.
    """

    version: str
    digest: str
    findings: tuple[Finding, ...]
    evaluation: str | None
    looks: int
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Check bounds."""
        if self.schema != SCHEMA:
            hint = "update fedrelease" if self.schema > SCHEMA else ""
            raise StoreError("unknown schema of a gate report", value=self.schema, rule=f"this is {SCHEMA}", hint=hint)
        parse_version(self.version)
        check_digest(self.digest)
        if self.evaluation is not None:
            check_sha256(self.evaluation)
        if self.looks < 0:
            raise StoreError("no number of looks", value=self.looks, rule="looks count from 0")

    @property
    def verdict(self) -> str:
        """``pass``, ``inconclusive``, ``fail`` or ``error``: the worst state of those that block."""
        return worst_state(self.findings)

    @property
    def held_by(self) -> tuple[Finding, ...]:
        """Every finding that keeps the release from its channel, worst first."""
        holding = [finding for finding in self.findings if finding.holds]
        return tuple(sorted(holding, key=lambda finding: BY_BADNESS.index(finding.state)))

    @property
    def sentence(self) -> str:
        """The verdict in words, for the log: the worst finding and how many more there are."""
        held = self.held_by
        if not held:
            warned = sum(f.state in BY_BADNESS[:3] for f in self.findings)
            return "passed" + (f", with {warned} warning{'s' if warned > 1 else ''}" if warned else "")
        more = f" (and {len(held) - 1} more)" if len(held) > 1 else ""
        return f"held: {held[0].subject}: {held[0].what}{more}"

    def to_bytes(self) -> bytes:
        """The canonical JSON that is kept beside the release."""
        return facts.to_bytes(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "GateReport":
        """The report behind ``data``.

        Raises:
            DamagedRelease: ``data`` is not what :meth:`to_bytes` writes.
        """
        return facts.from_bytes(cls, data)

    def to_json(self) -> dict[str, Json]:
        """What ``--json`` prints: numbers as numbers, the verdict beside the findings."""
        return {
            "version": self.version,
            "digest": self.digest,
            "verdict": self.verdict,
            "evaluation": self.evaluation,
            "looks": self.looks,
            "findings": [finding_json(finding) for finding in self.findings],
        }


def finding_json(finding: Finding) -> dict[str, Json]:
    """What ``--json`` prints of a finding: numbers as numbers."""
    return {
        "gate": finding.gate,
        "slice": finding.slice,
        "against": finding.against,
        "state": finding.state,
        "severity": finding.severity,
        "what": finding.what,
        "evidence": dict(finding.evidence),
        "needed": finding.needed,
    }
