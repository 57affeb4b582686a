"""The compatibility gate: who uses what serves now can use the candidate, or MAJOR says that it cannot.

Example::

    compatibility(candidate, [stable], CompatibilityRule())[0].what     # 'labels changed, and MAJOR rises from 0 to 1'
"""

from collections.abc import Mapping, Sequence

from fedrelease.gate_rules import CompatibilityRule
from fedrelease.manifest import Manifest, parse_version
from fedrelease.server.gates.contract import Evidence, Finding
from fedrelease.server.gates.subject import Subject
from fedrelease.server.gates.words import error, finding, skipped

__all__ = ["changes", "compatibility"]

GATE = "compatibility"


def compatibility(candidate: Subject, others: Sequence[Subject], rule: CompatibilityRule) -> list[Finding]:
    """The interface of each other release is the candidate's, or the candidate's MAJOR is higher."""
    if not candidate.manifest.base.files or not candidate.manifest.task.labels:
        return [error(GATE, rule, "the candidate's manifest does not say what its interface is")]
    if not others:
        return [skipped(GATE, rule, "nothing serves yet")]
    return [_against(candidate.manifest, other, rule) for other in others]


def _against(manifest: Manifest, other: Subject, rule: CompatibilityRule) -> Finding:
    changed = changes(other.manifest, manifest)
    before, after = parse_version(other.manifest.version).major, parse_version(manifest.version).major
    evidence: Evidence = {"changed": ", ".join(changed), "major": after, "major_before": before}
    if not changed:
        state, what = "pass", "the interface is the same"
    elif after > before:
        state, what = "pass", f"{' and '.join(changed)} changed, and MAJOR rises from {before} to {after}"
    else:
        gone = sorted(set(other.manifest.task.labels) - set(manifest.task.labels))
        lost = f" (without {', '.join(gone)})" if gone else ""
        state, what = "fail", f"{' and '.join(changed)} changed{lost}, and MAJOR stays {after}"
    return finding(GATE, rule, state, what, against=other.name, evidence=evidence)


def changes(before: Manifest, after: Manifest) -> tuple[str, ...]:
    """The parts of the interface that differ, by name."""
    old, new = _interface(before), _interface(after)
    return tuple(part for part in old if old[part] != new[part])


def _interface(manifest: Manifest) -> Mapping[str, object]:
    task = manifest.task
    return {
        "base": dict(manifest.base.files),
        "task": (task.name, task.max_length),
        "labels": task.labels,
        "tokenizer": task.tokenizer,
        "adapter": manifest.adapter,
    }
