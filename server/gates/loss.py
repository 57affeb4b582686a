"""The loss gate: the mean loss does not rise by more than a margin. It sees a model that grows unsure before it grows wrong.

Example::

    loss(candidate, [stable], LossRule(margin=0.05))[0].what     # '+0.012 nats an item (0.003 to 0.021; at most 0.05 more)'
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedrelease.gate_rules import LossRule
from fedrelease.server.gates.bootstrap import bca_bounds
from fedrelease.server.gates.contract import Finding
from fedrelease.server.gates.pairs import pair
from fedrelease.server.gates.subject import Subject
from fedrelease.server.gates.words import error, finding, skipped

__all__ = ["loss"]

GATE = "loss"
LEAST_CLUSTERS = 10
LEAST_ITEMS = 20


def loss(candidate: Subject, others: Sequence[Subject], rule: LossRule) -> list[Finding]:
    """The paired mean difference with BCa bounds.

    From ten sites on, whole sites are drawn, so that the bounds speak of further sites too. With fewer that would be too narrow:
    then items are drawn, and the bounds speak of these sites only.
    """
    if not others:
        return [skipped(GATE, rule, "nothing serves yet")]
    return [_against(candidate, other, rule) for other in others]


def _against(candidate: Subject, other: Subject, rule: LossRule) -> Finding:
    pairs = pair(candidate.items, other.items)
    if isinstance(pairs, str):
        return error(GATE, rule, pairs, against=other.name)
    chosen = np.isin(pairs.truth, pairs.known)
    differences = (pairs.is_loss - pairs.was_loss)[chosen]
    if not len(differences) or not np.isfinite(differences).all():
        return error(GATE, rule, "the loss of an item is missing or no finite number", against=other.name)
    if len(differences) < LEAST_ITEMS:
        what = f"{len(differences)} items, and it takes {LEAST_ITEMS}"
        return finding(GATE, rule, "inconclusive", what, against=other.name, needed=LEAST_ITEMS)
    return _judged(differences, pairs.group[chosen], rule, other.name)


def _judged(differences: NDArray[np.float64], group: NDArray[np.str_], rule: LossRule, against: str) -> Finding:
    names, code = np.unique(group, return_inverse=True)
    by_site = len(names) >= LEAST_CLUSTERS
    clusters = code if by_site else np.arange(len(differences))
    mean, low, high = bca_bounds(differences, clusters, alpha=rule.alpha, draws=rule.draws, seed=len(differences))
    state = "pass" if high < rule.margin else "fail" if low > rule.margin else "inconclusive"
    what = f"{mean:+.3f} nats an item ({low:+.3f} to {high:+.3f}; at most {rule.margin:g} more)"
    evidence = {
        "n": len(differences),
        "difference": mean,
        "low": low,
        "high": high,
        "margin": rule.margin,
        "drawn": "sites" if by_site else "items",
    }
    return finding(GATE, rule, state, what, against=against, evidence=evidence)
