"""From a round's outcome to its verdict: what the gates are shown, what they say, and what is kept so that they can say it again.

Example::

    judged = judge(candidate, phase, experiment=experiment, store=store)
    judged.verdict                                         # 'held'
    attach_report(store, judged.report(manifest))          # beside the release, by its digest
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedrelease.experiment import Experiment, Phase, Privacy
from fedrelease.files import digest_file
from fedrelease.gate_rules import GateRule
from fedrelease.manifest import Manifest
from fedrelease.server.attachments import attachments, newest_attachment, put_attachment
from fedrelease.server.gates import Finding, GateReport, Step, Subject, run_gates
from fedrelease.server.gates.contract import worst_state
from fedrelease.server.gates.items import Items
from fedrelease.server.gates.subject import SiteScores, cosine, layout_of, step_between
from fedrelease.server.lifecycle import anchor
from fedrelease.server.plan import BASE_VERSION
from fedrelease.server.release import Release, by_digest, load, versions
from fedrelease.server.retracted import is_rebuilt
from fedrelease.server.seen_items import EARLIER_SCORES, SCORES, read_scores
from fedrelease.server.store import Store
from fedrelease.update import State

__all__ = [
    "REPORT",
    "Candidate",
    "Judged",
    "Measured",
    "attach_report",
    "compared_with",
    "judge",
    "judge_against",
    "report_of",
    "reports_of",
    "subject_of",
]

REPORT = "gate-report"
EARLIER = 10
"""Steps before this one that its norm is compared with."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the gates said of a candidate; of its evaluation set, and how often that was looked at."""

    findings: tuple[Finding, ...]
    evaluation: str | None
    looks: int

    @property
    def verdict(self) -> str:
        """``released``, or ``held`` where a blocking gate did not pass."""
        return "released" if worst_state(self.findings) == "pass" else "held"

    def report(self, manifest: Manifest) -> GateReport:
        """The report about the release with this manifest."""
        return GateReport(
            version=manifest.version,
            digest=manifest.digest,
            findings=self.findings,
            evaluation=self.evaluation,
            looks=self.looks,
        )


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A round's new state before its verdict.

    Attributes:
        began: what the sites trained from: the parent's state, with rows for labels that the round adds.
        earlier_scores: ``scores`` on the rows of fewer labels, as earlier releases knew them.
        refused: answers to training that do not count.
    """

    draft: Manifest
    state: State
    parent: Release
    items: Items | None
    scores: SiteScores | None
    refused: int
    began: State
    earlier_scores: tuple[SiteScores, ...] = ()


def judge(candidate: Candidate, phase: Phase, *, experiment: Experiment, store: Store) -> Judged:
    """Run the gates of the phase.

    Raises:
        DamagedRelease: what the candidate is compared with is not what was released.
    """
    looks = _looks(store, candidate.parent, _evaluation(candidate))
    others = compared_with(store)
    return judge_against(candidate, others, phase.rules, plan=experiment.privacy, store=store, looks=looks)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What answering took with one release: seconds of single answers, and the peak of memory in bytes."""

    seconds: tuple[float, ...]
    memory_bytes: int


def judge_against(
    candidate: Candidate,
    others: Mapping[str, Release],
    rules: Mapping[str, GateRule],
    *,
    plan: Privacy,
    store: Store,
    looks: int,
    measured: Mapping[str, Measured] | None = None,
) -> Judged:
    """Run these gates against these releases, by the names that findings call them.

    Args:
        looks: how often the evaluation set was looked at, this time included.
        measured: by version, where something was measured on a machine.

    Raises:
        DamagedRelease: what the candidate is compared with is not what was released.
    """
    subject = Subject(
        name=f"candidate {candidate.draft.version}",
        manifest=candidate.draft,
        state=candidate.state,
        digests=_digests(candidate.draft, store),
        declared=layout_of(candidate.began),
        items=candidate.items,
        scores=candidate.scores,
        earlier_scores=candidate.earlier_scores,
        step=_step(candidate, store),
        plan=plan,
        looks=looks,
    )
    compared = [_with(subject_of(name, release), measured or {}) for name, release in others.items()]
    findings = run_gates(_with(subject, measured or {}), compared, rules)
    return Judged(findings=findings, evaluation=_evaluation(candidate), looks=looks)


def _with(subject: Subject, measured: Mapping[str, Measured]) -> Subject:
    found = measured.get(subject.manifest.version)
    if found is None:
        return subject
    return replace(subject, seconds=np.array(found.seconds, dtype=np.float64), memory_bytes=found.memory_bytes)


def _evaluation(candidate: Candidate) -> str | None:
    return candidate.items.evaluation if candidate.items else None


def compared_with(store: Store) -> dict[str, Release]:
    """Name -> release that candidates are compared with: what serves, else the base; and the anchor, if it is another one."""
    stable = store.channels().channels.get("stable")
    serving, pinned = load(store.folder, stable.version if stable else BASE_VERSION), anchor(store)
    if pinned is not None and pinned.digest == serving.digest:
        return {f"anchor {serving.version}": serving}  # which stable points at too; asked as strictly as an anchor asks
    found = {f"{'stable' if stable else 'base'} {serving.version}": serving}
    return {**found, f"anchor {pinned.version}": pinned} if pinned else found


def subject_of(name: str, release: Release) -> Subject:
    """A release as the gates see it, from what was kept when it was made."""
    roles = {entry.role for entry in release.manifest.files}
    paths = {entry.path for entry in release.manifest.files}
    return Subject(
        name=name,
        manifest=release.manifest,
        items=Items.from_bytes(release.read("items")) if "items" in roles else None,
        scores=read_scores(release.read(SCORES)) if SCORES in paths else None,
        earlier_scores=tuple(
            read_scores(release.read(path)) for path in sorted(paths) if path.startswith(EARLIER_SCORES)
        ),
        pinned=name.startswith("anchor "),
    )


def report_of(release: Release) -> GateReport | None:
    """The newest report of the gates about a release; None where none looked at it."""
    data = newest_attachment(release.root, release.digest, REPORT)
    return GateReport.from_bytes(data) if data is not None else None


def reports_of(release: Release) -> tuple[GateReport, ...]:
    """Every report about a release, oldest first: the first is the one that decided when it was made."""
    kept = attachments(release.root, release.digest, REPORT)
    return tuple(GateReport.from_bytes(attachment.read()) for attachment in kept)


def attach_report(store: Store, report: GateReport) -> None:
    """Keep the report beside its release; the caller holds the store's lock. The same one again changes nothing."""
    put_attachment(store.folder, report.digest, REPORT, report.to_bytes())


def _looks(store: Store, parent: Release, evaluation: str | None) -> int:
    """How often the set was looked at, this time included: one more than when the newest release of a round was judged on it."""
    before = report_of(_newest_judged(store, parent))
    if evaluation is None:
        return 0
    return before.looks + 1 if before is not None and before.evaluation == evaluation else 1


def _newest_judged(store: Store, parent: Release) -> Release:
    """Nobody looked at the items of a release that was rebuilt."""
    newest_first = (load(store.folder, version) for version in reversed(versions(store.folder)))
    return next((release for release in newest_first if not is_rebuilt(release.manifest)), parent)


def _digests(manifest: Manifest, store: Store) -> dict[str, str]:
    return {entry.path: digest_file(store.blob_path(entry.sha256)) for entry in manifest.files}


def _step(candidate: Candidate, store: Store) -> Step | None:
    """How the candidate came from its parent; None in the first round, whose parent is the base."""
    parent = candidate.parent
    if not parent.manifest.parents:
        return None
    step = step_between(candidate.began, candidate.state)
    last = step_between(by_digest(store.folder, parent.manifest.parents[0]).state(), parent.state())
    return Step(
        norm=_norm(step),
        earlier=_earlier_norms(parent),
        cosine=cosine(step, last),
        accepted=len(candidate.draft.federation.accepted),
        refused=candidate.refused,
    )


def _norm(step: State) -> float:
    return math.sqrt(math.fsum(float(tensor.square().sum()) for tensor in step.values()))


def _earlier_norms(parent: Release) -> tuple[float, ...]:
    """Of the steps that led to the parent, oldest first, as the gates kept them with each release."""
    norms: list[float] = []
    line: Release | None = parent
    while line is not None and len(norms) < EARLIER:
        report = report_of(line)
        norms.extend(_norms_in(report.findings) if report else [])
        line = by_digest(line.root, line.manifest.parents[0]) if line.manifest.parents else None
    return tuple(reversed(norms))


def _norms_in(findings: Sequence[Finding]) -> list[float]:
    return [
        float(found.evidence["norm"])  # type: ignore[arg-type]  # the update gate's own number
        for found in findings
        if found.gate == "update" and "norm" in found.evidence
    ]
