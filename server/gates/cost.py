"""The gates of what a release costs those who serve it: time of an answer, memory, size of its files.

Example::

    latency(candidate, [stable], LatencyRule())[0].what      # '1.03 times the time of ... (1.01 to 1.05; at most 1.20)'
"""

from collections.abc import Sequence

import numpy as np

from fedrelease.gate_rules import LatencyRule, MemoryRule, SizeRule
from fedrelease.manifest import Manifest
from fedrelease.server.gates.bootstrap import median_ratio
from fedrelease.server.gates.contract import Finding
from fedrelease.server.gates.subject import Subject
from fedrelease.server.gates.words import error, finding, skipped
from fedrelease.wording import amount

__all__ = ["latency", "memory", "size"]

DRAWS = 2000
SEED = 0
SERVING_ROLES = ("adapter", "config", "tokenizer", "weights")


def latency(candidate: Subject, others: Sequence[Subject], rule: LatencyRule) -> list[Finding]:
    """Ratio of the median times: pass if its upper bound is within the limit, fail if the lower one is beyond it."""
    if not others:
        return [skipped("latency", rule, "nothing serves yet")]
    return [_latency(candidate, other, rule) for other in others]


def _latency(candidate: Subject, other: Subject, rule: LatencyRule) -> Finding:
    ours, theirs = candidate.seconds, other.seconds
    if ours is None or theirs is None or not len(ours) or len(ours) != len(theirs):
        return error("latency", rule, "there are no times taken in turns", against=other.name)
    if not all(bool(np.isfinite(times).all() and (times > 0).all()) for times in (ours, theirs)):
        return error("latency", rule, "a time is no number above 0", against=other.name)
    if len(ours) < rule.least_timings:
        what = f"{len(ours)} times of each, and it takes {rule.least_timings}"
        return finding("latency", rule, "inconclusive", what, against=other.name, needed=rule.least_timings)
    ratio, low, high = median_ratio(ours, theirs, alpha=rule.alpha, draws=DRAWS, seed=SEED)
    noisy = high - low > rule.widest
    state = "inconclusive" if noisy else _state(low, high, rule.most_ratio)
    what = f"{ratio:.2f} times the time of an answer ({low:.2f} to {high:.2f}; at most {rule.most_ratio:.2f})"
    evidence = {"ratio": ratio, "low": low, "high": high, "most_ratio": rule.most_ratio, "timings": len(ours)}
    what += ": too noisy to tell" if noisy else ""
    return finding("latency", rule, state, what, against=other.name, evidence=evidence)


def _state(low: float, high: float, limit: float) -> str:
    return "pass" if high <= limit else "fail" if low > limit else "inconclusive"


def memory(candidate: Subject, others: Sequence[Subject], rule: MemoryRule) -> list[Finding]:
    """Peak memory against that of each other release."""
    if not others:
        return [skipped("memory", rule, "nothing serves yet")]
    ours = candidate.memory_bytes
    return [_ratio("memory", rule, ours, other.memory_bytes, rule.most_ratio, other.name) for other in others]


def size(candidate: Subject, others: Sequence[Subject], rule: SizeRule) -> list[Finding]:
    """Bytes of the files that serve (adapter, weights, tokenizer, config) against those of each other release."""
    if not others:
        return [skipped("size", rule, "nothing serves yet")]
    ours = _serving_bytes(candidate.manifest)
    return [_ratio("size", rule, ours, _serving_bytes(other.manifest), rule.most_ratio, other.name) for other in others]


def _serving_bytes(manifest: Manifest) -> int:
    return sum(file.size for file in manifest.files if file.role in SERVING_ROLES)


def _ratio(
    gate: str, rule: MemoryRule | SizeRule, ours: int | None, theirs: int | None, limit: float, against: str
) -> Finding:
    if not ours or not theirs or ours < 0 or theirs < 0:
        return error(gate, rule, "it was not measured for both", against=against)
    ratio = ours / theirs
    what = f"{amount(ours)} is {ratio:.2f} times {amount(theirs)}; at most {limit:.2f} is allowed"
    evidence = {"bytes": ours, "bytes_before": theirs, "ratio": ratio, "most_ratio": limit}
    return finding(gate, rule, "pass" if ratio <= limit else "fail", what, against=against, evidence=evidence)
