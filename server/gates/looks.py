"""The looks gate: an evaluation set that has chosen often is no longer fresh.

Example::

    looks(candidate, (), LooksRule())[0].what                # 'looked at 12 times, fewer than 50'
"""

from collections.abc import Sequence

from fedrelease.gate_rules import LooksRule
from fedrelease.server.gates.contract import Finding
from fedrelease.server.gates.subject import Subject
from fedrelease.server.gates.words import error, finding

__all__ = ["looks"]

GATE = "looks"


def looks(candidate: Subject, others: Sequence[Subject], rule: LooksRule) -> list[Finding]:
    """How often the candidate's evaluation set was looked at, this time included.

    Source: Dwork et al. (2015), https://arxiv.org/abs/1506.02629: what adaptive reuse of a hold-out does to it.
    """
    del others
    if candidate.looks is None or candidate.looks < 1:
        return [error(GATE, rule, "nobody counted how often the evaluation set was looked at")]
    spent = candidate.looks >= rule.most
    what = f"looked at {candidate.looks} times, {'not ' if spent else ''}fewer than {rule.most}"
    what += ": hold out fresh rows" if spent else ""
    evidence = {"looks": candidate.looks, "most": rule.most}
    return [finding(GATE, rule, "fail" if spent else "pass", what, evidence=evidence)]
