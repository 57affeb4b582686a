"""The update gate: the round's step looks like those before it. A step that does not is a reason to look, seldom a proof.

Example::

    update(candidate, (), UpdateRule())[0].what              # 'norm 0.812, 1.2 deviations from the median 0.790 of 5 steps'
"""

import math
from collections.abc import Sequence
from statistics import median

from fedrelease.gate_rules import UpdateRule
from fedrelease.server.gates.contract import Finding
from fedrelease.server.gates.subject import Step, Subject
from fedrelease.server.gates.words import error, finding, skipped

__all__ = ["deviations", "update"]

GATE = "update"
SCALE = 1.4826
"""Median absolute deviations of a normal distribution in one standard deviation."""
FLOOR = 0.05
"""A spread of earlier norms under this share of their median is taken as that: equal steps must not forbid every other."""


def update(candidate: Subject, others: Sequence[Subject], rule: UpdateRule) -> list[Finding]:
    """Norm and direction against earlier steps; how many sites stand behind it; how many answers were refused."""
    del others
    step = candidate.step
    if step is None and candidate.manifest.round <= 1:
        return [skipped(GATE, rule, "the first round has no step before it")]
    if step is None:
        return [error(GATE, rule, "the step from the parent was not measured")]
    if not all(math.isfinite(number) for number in (step.norm, *step.earlier, step.cosine or 0.0)):
        return [error(GATE, rule, "a norm or a cosine is no finite number")]
    return [_norm(step, rule), _direction(step, rule), _sites(step, rule)]


def deviations(norm: float, earlier: Sequence[float]) -> float:
    """How many scaled median absolute deviations lie between a norm and the median of earlier ones.

    Source: Leys et al. (2013), https://doi.org/10.1016/j.jesp.2013.03.013, section 2 (median plus or minus k MAD).
    """
    middle = median(earlier)
    spread = SCALE * median(abs(one - middle) for one in earlier)
    least = max(spread, FLOOR * middle)
    return abs(norm - middle) / least if least else (1e9 if norm != middle else 0.0)


def _norm(step: Step, rule: UpdateRule) -> Finding:
    if len(step.earlier) < rule.least_rounds:
        what = f"norm {step.norm:.3g}; {len(step.earlier)} earlier steps, and it takes {rule.least_rounds} to compare"
        return finding(GATE, rule, "skipped", what, evidence={"norm": step.norm})
    away, middle = deviations(step.norm, step.earlier), median(step.earlier)
    far = f"{away:.1f} deviations" if away < 1e6 else "very far"
    what = f"norm {step.norm:.3g}, {far} from the median {middle:.3g} of {len(step.earlier)} steps"
    evidence = {"norm": step.norm, "median": middle, "deviations": away, "most_deviations": rule.most_deviations}
    state = "fail" if away > rule.most_deviations else "pass"
    return finding(GATE, rule, state, what, evidence=evidence)


def _direction(step: Step, rule: UpdateRule) -> Finding:
    if step.cosine is None:
        return skipped(GATE, rule, "no last step to compare the direction with")
    what = f"cosine {step.cosine:+.2f} to the last step, at least {rule.least_cosine:+.2f} is asked for"
    evidence = {"cosine": step.cosine, "least_cosine": rule.least_cosine}
    return finding(GATE, rule, "fail" if step.cosine < rule.least_cosine else "pass", what, evidence=evidence)


def _sites(step: Step, rule: UpdateRule) -> Finding:
    answers = step.accepted + step.refused
    if answers == 0:
        return error(GATE, rule, "no site answered")
    share = step.refused / answers
    what = f"{step.accepted} of {answers} answers count; at least {rule.least_sites} must, and at most {rule.most_refused:.0%}"
    evidence = {"accepted": step.accepted, "refused": step.refused, "refused_share": share}
    enough = step.accepted >= rule.least_sites and share <= rule.most_refused
    return finding(GATE, rule, "pass" if enough else "fail", f"{what} may be refused", evidence=evidence)
