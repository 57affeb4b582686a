"""The integrity gate: the bytes are those of the manifest, and the tensors are the declared ones and finite.

Example::

    integrity(candidate, (), IntegrityRule())                # one finding for the files, one for the tensors
"""

from collections.abc import Sequence

import torch

from fedrelease.gate_rules import IntegrityRule
from fedrelease.server.gates.contract import Finding
from fedrelease.server.gates.subject import Subject, layout_of
from fedrelease.server.gates.words import error, finding, some

__all__ = ["integrity"]

GATE = "integrity"


def integrity(candidate: Subject, others: Sequence[Subject], rule: IntegrityRule) -> list[Finding]:
    """Files against their digests; names, shapes, dtypes and numbers of the tensors against what was declared."""
    del others
    return [_files(candidate, rule), _tensors(candidate, rule)]


def _files(candidate: Subject, rule: IntegrityRule) -> Finding:
    files, found = candidate.manifest.files, candidate.digests
    if not files or found is None:
        return error(GATE, rule, "no file was read: there is nothing to compare with the manifest")
    if missing := [file.path for file in files if file.path not in found]:
        return error(GATE, rule, f"not read: {some(missing)}")
    evidence = {"files": len(files), "altered": sum(found[file.path] != file.sha256 for file in files)}
    if wrong := [file.path for file in files if found[file.path] != file.sha256]:
        what = f"the bytes are not those of the manifest: {some(wrong)}"
        return finding(GATE, rule, "fail", what, evidence=evidence)
    return finding(GATE, rule, "pass", f"{len(files)} files have the bytes of the manifest", evidence=evidence)


def _tensors(candidate: Subject, rule: IntegrityRule) -> Finding:
    state, declared = candidate.state, candidate.declared
    if not state or not declared:
        return error(GATE, rule, "no tensor was read, or none is declared")
    layout = layout_of(state)
    wrong = [
        f"{name} is {layout.get(name, 'missing')}, declared is {declared.get(name, 'nothing')}"
        for name in sorted(layout.keys() | declared.keys())
        if layout.get(name) != declared.get(name)
    ]
    not_finite = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor.float()).all())]
    evidence = {"tensors": len(state), "undeclared": len(wrong), "not_finite": len(not_finite)}
    if wrong or not_finite:
        problems = [*wrong, *(f"{name} is not finite" for name in not_finite)]
        return finding(GATE, rule, "fail", some(problems), evidence=evidence)
    return finding(GATE, rule, "pass", f"{len(state)} tensors are as declared, and finite", evidence=evidence)
