"""The churn gate: how many answers were right and turn wrong, even if as many turn right.

Example::

    churn(candidate, [stable], ChurnRule(most=0.05))[0].what     # '3.2 % of 1000 items turn wrong (2.3 to 4.3 %; ...)'
"""

from collections.abc import Sequence

import numpy as np

from fedrelease.gate_rules import ChurnRule
from fedrelease.server.gates.contract import Finding
from fedrelease.server.gates.pairs import discordant, pair
from fedrelease.server.gates.statistics import clopper_pearson, n_share
from fedrelease.server.gates.subject import Subject
from fedrelease.server.gates.words import error, finding, skipped

__all__ = ["churn"]

GATE = "churn"


def churn(candidate: Subject, others: Sequence[Subject], rule: ChurnRule) -> list[Finding]:
    """The share b / n with exact bounds: pass if the upper one is within the limit, fail if the lower one is beyond it.

    Source: Yan et al. (2021), https://arxiv.org/abs/2011.09161, equation 1 (negative flip rate).
    """
    if not others:
        return [skipped(GATE, rule, "nothing serves yet")]
    return [_against(candidate, other, rule) for other in others]


def _against(candidate: Subject, other: Subject, rule: ChurnRule) -> Finding:
    pairs = pair(candidate.items, other.items)
    if isinstance(pairs, str):
        return error(GATE, rule, pairs, against=other.name)
    b, _, n = discordant(pairs, np.isin(pairs.truth, pairs.known))
    if n == 0:
        return error(GATE, rule, "the evaluation set has no item that it could answer", against=other.name)
    low, high = clopper_pearson(b, n, rule.alpha)
    state = "pass" if high <= rule.most else "fail" if low > rule.most else "inconclusive"
    span = f"{100 * low:.1f} to {100 * high:.1f} %; at most {100 * rule.most:g} %"
    what = f"{100 * b / n:.1f} % of {n} items were right and turn wrong ({span})"
    evidence = {"n": n, "right_to_wrong": b, "share": b / n, "low": low, "high": high, "most": rule.most}
    needed = n_share(b / n, rule.most, n, alpha=rule.alpha) if state == "inconclusive" else None
    return finding(GATE, rule, state, what, against=other.name, evidence=evidence, needed=needed)
