"""Gates: checks on a candidate, with evidence. Pure functions over what was measured; nothing here reads a store.

Example::

    rules = {"integrity": IntegrityRule(), "quality": QualityRule(margin=0.02)}
    findings = run_gates(candidate, [stable, anchor], rules)
    report = GateReport(version="0.1.3", digest=digest, findings=findings, evaluation=items.evaluation, looks=4)
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from fedrelease.errors import ExperimentError
from fedrelease.gate_rules import GATES, GateRule
from fedrelease.server.gates.contract import SEVERITIES, STATES, Finding, GateReport
from fedrelease.server.gates.items import Items
from fedrelease.server.gates.subject import SiteScores, Step, Subject

__all__ = [
    "GATES",
    "ROOMS",
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

ROOMS: Mapping[str, str] = {
    "churn": "churn",
    "compatibility": "compatibility",
    "integrity": "integrity",
    "latency": "cost",
    "looks": "looks",
    "loss": "loss",
    "memory": "cost",
    "privacy": "privacy",
    "quality": "quality",
    "size": "cost",
    "update": "update",
}
"""Gate -> the module that has a function of its name; imported when a phase has that gate, since some need scipy."""


def _check(name: str) -> Callable[[Subject, Sequence[Subject], GateRule], list[Finding]]:
    check: Callable[[Subject, Sequence[Subject], GateRule], list[Finding]] = getattr(
        import_module(f"{__name__}.{ROOMS[name]}"), name
    )
    return check


def run_gates(candidate: Subject, others: Sequence[Subject], rules: Mapping[str, GateRule]) -> tuple[Finding, ...]:
    """What each gate says, in the order of their names; every gate says something.

    Raises:
        ExperimentError: no gate of that name.
    """
    for name in rules:
        _check_name(name)
    return tuple(found for name in sorted(rules) for found in _check(name)(candidate, others, rules[name]))


def _check_name(name: str) -> None:
    if name in ROOMS:
        return
    near = difflib.get_close_matches(name, ROOMS, n=1)
    raise ExperimentError(
        "unknown gate",
        value=name,
        rule=f"phase.gates names {', '.join(sorted(ROOMS))}",
        hint=f"did you mean {near[0]}" if near else "choose one of those",
    )
