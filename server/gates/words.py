"""How gates put numbers, and the findings that say that something is missing.

Example::

    points(-0.0123)                                          # '-1.2'
    error("quality", rule, "the candidate has no predictions", against="stable 0.1.2")
"""

from collections.abc import Sequence

from fedrelease.gate_rules import GateRule
from fedrelease.server.gates.contract import Evidence, Finding

__all__ = ["error", "finding", "points", "skipped", "some"]

NAMED = 5


def points(share: float) -> str:
    """A difference of shares in points, with its sign."""
    rounded = round(100 * share, 1) + 0.0  # no -0.0
    return f"{rounded:+.1f}" if rounded else "0.0"


def some(names: Sequence[str]) -> str:
    """The first few names and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def finding(
    gate: str,
    rule: GateRule,
    state: str,
    what: str,
    *,
    slice: str = "overall",
    against: str | None = None,
    evidence: Evidence | None = None,
    needed: int | None = None,
) -> Finding:
    """A finding with the severity of its rule."""
    return Finding(
        gate=gate,
        slice=slice,
        against=against,
        state=state,
        severity=rule.severity,
        what=what,
        evidence=evidence or {},
        needed=needed,
    )


def error(gate: str, rule: GateRule, what: str, *, slice: str = "overall", against: str | None = None) -> Finding:
    """What the gate needs is missing or no number: never a pass."""
    return finding(gate, rule, "error", what, slice=slice, against=against)


def skipped(gate: str, rule: GateRule, what: str, *, slice: str = "overall", against: str | None = None) -> Finding:
    """There is nothing that the gate could be about."""
    return finding(gate, rule, "skipped", what, slice=slice, against=against)
