"""The gate of a variant: what was exported against the release that it came from.

Example::

    same_logits(found, wanted, rule)                         # pass: within 1e-4 on 200 rows
    same_answers(found, wanted, AgreementRule())             # pass, fail or inconclusive, with exact bounds
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedrelease.data.row_files import Rows
from fedrelease.data.tokens import Batch
from fedrelease.files import digest_bytes
from fedrelease.gate_rules import LatencyRule, QualityRule, SizeRule
from fedrelease.manifest import FileEntry, Manifest, TaskFacts
from fedrelease.server.exports.compared import truth_of
from fedrelease.server.exports.rows import CheckRows
from fedrelease.server.gates.contract import Finding
from fedrelease.server.gates.cost import latency, size
from fedrelease.server.gates.items import SERVER, Items
from fedrelease.server.gates.quality import quality
from fedrelease.server.gates.statistics import clopper_pearson, n_share
from fedrelease.server.gates.subject import Subject
from fedrelease.server.gates.words import error, finding
from fedrelease.tasks import TASKS
from fedrelease.tasks.contract import Judged, Task

__all__ = ["AgreementRule", "LogitsRule", "cheaper", "judged", "not_worse", "same_answers", "same_logits"]


@dataclass(frozen=True, kw_only=True)
class LogitsRule:
    """Logits differ by at most ``most``, or by ``most`` of the largest one where that is above 1: float32 rounds by shares."""

    severity: str = "block"
    most: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class AgreementRule:
    """At least a share ``least`` of all rows has the same label; ``alpha`` one-sided, of each bound."""

    severity: str = "block"
    least: float = 0.98
    alpha: float = 0.05


def same_logits(found: Tensor, wanted: Tensor, rule: LogitsRule, *, against: str, unit: str = "rows") -> Finding:
    """The largest difference of a logit, both ``[items, labels]``; what is no number is an error, never a pass."""
    largest = float((found.double() - wanted.double()).abs().max())
    if not np.isfinite(largest):
        return error("logits", rule, "a logit is no finite number", against=against)
    allowed = rule.most * max(1.0, float(wanted.abs().max()))
    state = "pass" if largest <= allowed else "fail"
    bound = f"{rule.most:.0e}" if largest <= rule.most else f"{allowed:.1e}, {rule.most:.0e} of the largest logit"
    what = f"logits differ by at most {largest:.1e} on {len(found)} {unit} (at most {bound})"
    evidence = {"rows": len(found), "largest": largest, "most": allowed}
    return finding("logits", rule, state, what, against=against, evidence=evidence)


def same_answers(
    found: Tensor,
    wanted: Tensor,
    rule: AgreementRule,
    *,
    against: str,
    unit: str = "rows",
    task: Task = TASKS["text-classification"],
) -> Finding:
    """The share of rows with the same label, or what else the task calls the same answer, with exact bounds.

    Source: Clopper and Pearson (1934), https://doi.org/10.1093/biomet/26.4.404.
    """
    if not (torch.isfinite(found).all() and torch.isfinite(wanted).all()):
        return error("agreement", rule, "a logit is no finite number", against=against)
    alike = task.same(found, wanted)
    n, same = len(alike), int(alike.sum())
    low, high = clopper_pearson(same, n, rule.alpha)
    state = "pass" if low >= rule.least else "fail" if high < rule.least else "inconclusive"
    span = f"{100 * low:.1f} to {100 * high:.1f} %; at least {100 * rule.least:g} %"
    answer = "number" if task.in_units else "label"
    unit = unit if n == len(found) else "labels of them"
    what = f"the same {answer} on {100 * same / n:.1f} % of {n} {unit} ({span})"
    evidence = {"n": n, "same": same, "share": same / n, "low": low, "high": high, "least": rule.least}
    needed = n_share(same / n, rule.least, n, alpha=rule.alpha) if state == "inconclusive" else None
    return finding("agreement", rule, state, what, against=against, evidence=evidence, needed=needed)


def not_worse(
    found: Tensor, wanted: Tensor, rows: CheckRows, rule: QualityRule, manifest: Manifest, *, against: str
) -> list[Finding]:
    """Paired non-inferiority on rows with labels, as between two releases; nothing to say without labels."""
    if not rows.labelled:
        return []
    ours, theirs = (_items(logits, rows, manifest) for logits in (found, wanted))
    other = Subject(name=against, manifest=manifest, items=theirs)
    return quality(Subject(name="variant", manifest=manifest, items=ours), [other], rule)


def judged(logits: Tensor, rows: Rows, facts: TaskFacts) -> Judged:
    """What is right for each item of ``logits``, and what they say; of rows with values as the task itself judges them."""
    first = rows.batch([0])
    if isinstance(first, Batch) and first.values is not None:
        return TASKS[facts.name].judge(logits, rows.batch(torch.arange(len(rows))), facts.labels)
    truth = truth_of(rows)
    return Judged(
        row=torch.arange(len(truth)),
        truth=truth,
        predicted=logits.argmax(1),
        loss=functional.cross_entropy(logits, truth, reduction="none"),
        sums=torch.zeros(len(rows), 0, dtype=torch.float64),
    )


def _items(logits: Tensor, rows: CheckRows, manifest: Manifest) -> Items:
    found = judged(logits, rows.rows, manifest.task)
    return Items(
        evaluation=digest_bytes(rows.source.encode()),  # both are of one pass over the same rows
        labels=TASKS[manifest.task.name].answers(manifest.task.labels),
        truth=found.truth.numpy().astype(np.int64),
        predicted=found.predicted.numpy().astype(np.int64),
        loss=found.loss.numpy().astype(np.float32),
        group=(SERVER,) * len(found.truth),
    )


def cheaper(ours: tuple[int, Tensor], theirs: tuple[int, Tensor], manifest: Manifest, *, against: str) -> list[Finding]:
    """Size and time of an answer, each as bytes and seconds ``[k]`` taken in turns: not more than before."""
    variant, other = (_costing(*cost, manifest=manifest, name=against) for cost in (ours, theirs))
    sizes = size(variant, [other], SizeRule(severity="block", most_ratio=1.0))
    return [*sizes, *latency(variant, [other], LatencyRule(severity="warn", most_ratio=1.0))]


def _costing(size_bytes: int, seconds: Tensor, *, manifest: Manifest, name: str) -> Subject:
    file = FileEntry(path="model.onnx", sha256="0" * 64, size=size_bytes, role="weights")
    return Subject(name=name, manifest=replace(manifest, files=(file,)), seconds=seconds.double().numpy())
