"""Gates: checks on a candidate, with evidence. Pure functions over what was measured; nothing here reads a store.

Example::

    rules = {"integrity": IntegrityRule(), "quality": QualityRule(margin=0.02)}
    findings = run_gates(candidate, [stable, anchor], rules)
    report = GateReport(version="0.1.3", digest=digest, findings=findings, evaluation=items.evaluation, looks=4)
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedrelease.errors import ExperimentError
from fedrelease.gate_rules import GATES, GateRule
from fedrelease.server.gates.churn import churn
from fedrelease.server.gates.compatibility import compatibility
from fedrelease.server.gates.contract import SEVERITIES, STATES, Finding, GateReport
from fedrelease.server.gates.cost import latency, memory, size
from fedrelease.server.gates.integrity import integrity
from fedrelease.server.gates.items import Items
from fedrelease.server.gates.looks import looks
from fedrelease.server.gates.loss import loss
from fedrelease.server.gates.privacy import privacy
from fedrelease.server.gates.quality import quality
from fedrelease.server.gates.subject import SiteScores, Step, Subject
from fedrelease.server.gates.update import update

__all__ = [
    "CHECKS",
    "GATES",
    "SEVERITIES",
    "STATES",
    "Finding",
    "GateReport",
    "Items",
    "SiteScores",
    "Step",
    "Subject",
    "run_gates",
]

CHECKS: Mapping[str, Callable[[Subject, Sequence[Subject], Any], list[Finding]]] = {  # each takes its own rule
    "churn": churn,
    "compatibility": compatibility,
    "integrity": integrity,
    "latency": latency,
    "looks": looks,
    "loss": loss,
    "memory": memory,
    "privacy": privacy,
    "quality": quality,
    "size": size,
    "update": update,
}


def run_gates(candidate: Subject, others: Sequence[Subject], rules: Mapping[str, GateRule]) -> tuple[Finding, ...]:
    """What each gate says, in the order of their names; every gate says something.

    Raises:
        ExperimentError: no gate of that name.
    """
    for name in rules:
        _check_name(name)
    return tuple(found for name in sorted(rules) for found in CHECKS[name](candidate, others, rules[name]))


def _check_name(name: str) -> None:
    if name in CHECKS:
        return
    near = difflib.get_close_matches(name, CHECKS, n=1)
    raise ExperimentError(
        "unknown gate",
        value=name,
        rule=f"phase.gates names {', '.join(sorted(CHECKS))}",
        hint=f"did you mean {near[0]}" if near else "choose one of those",
    )
