"""The quality gate: the candidate is not worse by more than a margin, and there are enough items to say so.

Example::

    quality(candidate, [stable, anchor], QualityRule(margin=0.02))

Each slice is tested at alpha as it is. Blocking asks all of them to pass, so that more slices can only lower the chance that a
worse model passes (an intersection-union test: Berger, 1982, https://doi.org/10.1080/00401706.1982.10487790); an equal model is
undecided more often instead. Chances to *fail* do add up over slices, which the margin makes small.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from fedrelease.experiment_sections import FIXED_LABELS
from fedrelease.gate_rules import QualityRule
from fedrelease.server.gates.contract import Evidence, Finding
from fedrelease.server.gates.noised import compare_scores
from fedrelease.server.gates.pairs import Pairs, Slice, discordant, pair, slices
from fedrelease.server.gates.statistics import Paired, compare
from fedrelease.server.gates.subject import SiteScores, Subject
from fedrelease.server.gates.words import error, points, skipped

__all__ = ["quality"]

GATE = "quality"
VERBS = {"pass": "not worse by", "fail": "worse by more than", "inconclusive": "undecided at"}


def quality(candidate: Subject, others: Sequence[Subject], rule: QualityRule) -> list[Finding]:
    """Paired non-inferiority against each of the others, slice by slice; by noisy accuracies where there are no items."""
    if not others:
        return [skipped(GATE, rule, "nothing serves yet, and there is no anchor")]
    return [finding for other in others for finding in _against(candidate, other, _spread(rule, other))]


def _spread(rule: QualityRule, other: Subject) -> QualityRule:
    """Alpha divided among the rounds that are compared with the anchor: one of them is a lucky one otherwise."""
    return replace(rule, alpha=rule.alpha / rule.anchor_looks) if other.pinned else rule


def _against(candidate: Subject, other: Subject, rule: QualityRule) -> Iterator[Finding]:
    if candidate.items is None and candidate.scores is not None:
        yield from _by_scores(candidate, candidate.scores, other, rule)
        return
    pairs = pair(candidate.items, other.items)
    if isinstance(pairs, str):
        yield error(GATE, rule, pairs, against=other.name)
        return
    if not np.isfinite(pairs.was_loss).all() or not np.isfinite(pairs.is_loss).all():
        yield error(GATE, rule, "the loss of an item is no finite number: the model did not answer", against=other.name)
        return
    # who answers everything with one label, before training, has a perfect recall of it; and some tasks' items have no class
    classes = other.manifest.round > 0 and candidate.manifest.task.name not in FIXED_LABELS
    for slice in slices(pairs):
        if classes or slice.kind != "class":
            yield _slice(pairs, slice, rule, other.name)
    for label in pairs.new:
        what = f"it does not know {label}: there is nothing to compare with"
        yield skipped(GATE, rule, what, slice=f"class:{label}", against=other.name)


def _by_scores(candidate: Subject, own: SiteScores, other: Subject, rule: QualityRule) -> Iterator[Finding]:
    """On the rows that the other release was looked at on: of its own labels, where the candidate knows more."""
    wanted = other.scores.evaluation if other.scores else None
    shared = next((scores for scores in candidate.earlier_scores if scores.evaluation == wanted), None)
    slice = "overall" if shared is None else "old-labels"
    yield from compare_scores(shared or own, other.scores, rule, against=other.name, slice=slice)


def _slice(pairs: Pairs, slice: Slice, rule: QualityRule, against: str) -> Finding:
    margin, severity = _asked(slice.kind, rule)
    b, c, n = discordant(pairs, slice.chosen)
    if n == 0:
        what = "the evaluation set has no such item"
        return _finding(slice.name, against, "error", severity, what, {"n": 0}, None)
    found = compare(b, c, n, margin=margin, alpha=rule.alpha)
    if found.state == "inconclusive" and slice.kind != "overall":
        severity = max(severity, rule.undecided_slices, key=("block", "warn", "info").index)
    evidence = _evidence(pairs, slice, found, rule, b=b, c=c, n=n, margin=margin)
    return _finding(slice.name, against, found.state, severity, _words(found, b, c, n, margin), evidence, found.needed)


def _finding(
    slice: str, against: str, state: str, severity: str, what: str, evidence: Evidence, needed: int | None
) -> Finding:
    return Finding(
        gate=GATE,
        slice=slice,
        against=against,
        state=state,
        severity=severity,
        what=what,
        evidence=evidence,
        needed=needed,
    )


def _asked(kind: str, rule: QualityRule) -> tuple[float, str]:
    """Margin and severity of a kind of slice."""
    asked = {
        "overall": (rule.margin, rule.severity),
        "class": (rule.class_margin, rule.class_severity),
        "site": (rule.site_margin, rule.site_severity),
    }
    return asked[kind]


def _words(found: Paired, b: int, c: int, n: int, margin: float) -> str:
    span = f"{points(found.low)} to {points(found.high)}"
    what = f"{points((c - b) / n)} points on {n} items ({span}): {VERBS[found.state]} {100 * margin:g}"
    more = f"; about {found.needed} items would decide" if found.needed else ""
    return what + (more if found.state == "inconclusive" else "")


def _evidence(
    pairs: Pairs, slice: Slice, found: Paired, rule: QualityRule, *, b: int, c: int, n: int, margin: float
) -> Evidence:
    return {
        "n": n,
        "right_to_wrong": b,
        "wrong_to_right": c,
        "accuracy": float(pairs.is_right[slice.chosen].mean()),
        "accuracy_before": float(pairs.was_right[slice.chosen].mean()),
        "difference": (c - b) / n,
        "low": found.low,
        "high": found.high,
        "margin": margin,
        "method": found.method,
        "alpha": rule.alpha,
        "p_worse": found.p_worse,
        "mcnemar_p": found.mcnemar,
    }
