"""Quality where sites tell no items: accuracies with a known noise decide only when their interval does.

Example::

    compare_scores(candidate.scores, stable.scores, QualityRule(), against="stable 0.1.2")
"""

import math
from collections.abc import Iterator

from scipy import stats

from fedrelease.gate_rules import QualityRule
from fedrelease.server.gates.contract import Finding
from fedrelease.server.gates.subject import SiteScores
from fedrelease.server.gates.words import error, points

__all__ = ["compare_scores", "spread"]

GATE = "quality"
VERBS = {"pass": "not worse by", "fail": "worse by more than", "inconclusive": "undecided at"}


def compare_scores(
    candidate: SiteScores, other: SiteScores | None, rule: QualityRule, *, against: str, slice: str = "overall"
) -> Iterator[Finding]:
    """The plain mean over sites, as the slice of that name; then each site, as far as both releases were looked at there."""
    if other is None:
        yield error(GATE, rule, "there are no accuracies of it", against=against)
        return
    if candidate.evaluation != other.evaluation:
        what = f"other hold-outs: {candidate.evaluation[:12]}, not {other.evaluation[:12]}"
        yield error(GATE, rule, what, against=against)
        return
    shared = tuple(sorted(candidate.accuracy.keys() & other.accuracy.keys()))
    if not shared or not all(_usable(scores, site) for scores in (candidate, other) for site in shared):
        what = (
            "no site told of both" if not shared else "an accuracy, a number of rows or a noise is missing or no number"
        )
        yield error(GATE, rule, what, against=against)
        return
    yield _judged(candidate, other, shared, rule, against, slice)
    for site in shared:
        yield _judged(candidate, other, (site,), rule, against, f"site:{site}")


def _usable(scores: SiteScores, site: str) -> bool:
    numbers = (scores.accuracy[site], scores.examples.get(site, math.nan), scores.noise.get(site, math.nan))
    return all(math.isfinite(number) for number in numbers) and numbers[1] > 0 and numbers[2] >= 0


def spread(first: float, second: float, examples: float) -> float:
    """The largest variance that the difference of two accuracies on the same rows can have, whichever rows they are.

    ``(b + c - d^2) / n`` with b + c as large as the two accuracies allow: at most the sum of the two errors, and of the two
    accuracies, and 1. So it needs no item, and no belief in independence.
    """
    one, two = min(1.0, max(0.0, first)), min(1.0, max(0.0, second))
    discordance = min(1.0, 2 - one - two, one + two)
    return max(discordance - (one - two) ** 2, 1 / (examples + 2)) / examples


def _judged(
    candidate: SiteScores, other: SiteScores, sites: tuple[str, ...], rule: QualityRule, against: str, slice: str
) -> Finding:
    one_site = slice.startswith("site:")
    margin, severity = (rule.site_margin, rule.site_severity) if one_site else (rule.margin, rule.severity)
    difference = math.fsum(candidate.accuracy[site] - other.accuracy[site] for site in sites) / len(sites)
    noise = math.fsum(candidate.noise[site] ** 2 + other.noise[site] ** 2 for site in sites)
    sampling = math.fsum(
        spread(candidate.accuracy[s], other.accuracy[s], min(candidate.examples[s], other.examples[s])) for s in sites
    )
    half = float(stats.norm.isf(rule.alpha)) * math.sqrt(noise + sampling) / len(sites)
    low, high = difference - half, difference + half
    state = "pass" if low > -margin else "fail" if high < -margin else "inconclusive"
    if state == "inconclusive" and one_site:
        severity = max(severity, rule.undecided_slices, key=("block", "warn", "info").index)
    where = f"{len(sites)} sites" if len(sites) > 1 else "one site"
    span = f"{points(low)} to {points(high)}, noise included"
    return Finding(
        gate=GATE,
        slice=slice,
        against=against,
        state=state,
        severity=severity,
        what=f"{points(difference)} points at {where} ({span}): {VERBS[state]} {100 * margin:g}",
        evidence={
            "sites": len(sites),
            "difference": difference,
            "low": low,
            "high": high,
            "margin": margin,
            "noise": math.sqrt(noise) / len(sites),
            "sampling": math.sqrt(sampling) / len(sites),
            "method": "normal interval, largest variance",
        },
        needed=None,
    )
