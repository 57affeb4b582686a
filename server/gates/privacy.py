"""The privacy gate: what the worst site has spent is within the plan, and within the phase's own limit.

Example::

    privacy(candidate, (), PrivacyRule(epsilon=6.0))[0].what     # 'the worst site has spent epsilon 5.42 of 6.00'
"""

import math
from collections.abc import Sequence

from fedrelease.gate_rules import PrivacyRule
from fedrelease.manifest import PrivacyFacts
from fedrelease.server.gates.contract import Finding
from fedrelease.server.gates.subject import Subject
from fedrelease.server.gates.words import error, finding, skipped

__all__ = ["privacy"]

GATE = "privacy"
ROUNDING = 1 + 1e-9


def privacy(candidate: Subject, others: Sequence[Subject], rule: PrivacyRule) -> list[Finding]:
    """Total epsilon of the worst site, and delta, against the plan's and the rule's."""
    del others
    told, plan = candidate.manifest.privacy, candidate.plan
    if told is None and plan.unit == "none" and rule.epsilon is None:
        return [skipped(GATE, rule, "the plan promises no privacy")]
    if told is None:
        promised = "the plan" if plan.unit != "none" else "the phase"
        return [error(GATE, rule, f"{promised} promises privacy, and the manifest tells of none")]
    totals = [told.epsilon_total, *(receipt.epsilon_total for receipt in told.sites)]
    if not all(math.isfinite(total) and total >= 0 for total in (*totals, told.delta)):
        return [error(GATE, rule, "an epsilon or delta is no number of at least 0")]
    limits = [limit for limit in (plan.epsilon if plan.unit != "none" else None, rule.epsilon) if limit is not None]
    if not limits:
        return [error(GATE, rule, "the release spends privacy, and neither plan nor phase says how much it may")]
    return [_within(told, max(totals), min(limits), plan.delta, rule)]


def _within(told: PrivacyFacts, total: float, limit: float, delta: float, rule: PrivacyRule) -> Finding:
    evidence = {"epsilon_total": total, "epsilon_limit": limit, "delta": told.delta, "delta_limit": delta}
    what = f"the worst site has spent epsilon {total:.2f} of {limit:.2f}, at delta {told.delta:g} of {delta:g}"
    fits = total <= limit * ROUNDING and told.delta <= delta * ROUNDING
    return finding(GATE, rule, "pass" if fits else "fail", what, evidence=evidence)
