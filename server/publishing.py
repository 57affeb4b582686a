"""From a round's outcome to a release: the manifest, its files, one commit.

Example::

    publish(outcome, cost, experiment=experiment, base=base, store=store)    # the release is in the store, its channels moved
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version as installed

from fedrelease.adapter import Adapter
from fedrelease.experiment import Experiment, Phase, StrategyChoice
from fedrelease.experiment_document import experiment_digest
from fedrelease.experiment_file import to_toml
from fedrelease.files import canonical_bytes
from fedrelease.label_plan import Labels
from fedrelease.manifest import (
    RESIDUAL,
    Accepted,
    AdapterFacts,
    BaseFacts,
    FederationFacts,
    FileEntry,
    Manifest,
    MetricsFacts,
    PrivacyFacts,
    Refused,
    TaskFacts,
)
from fedrelease.models.bases import Base
from fedrelease.privacy import Receipt
from fedrelease.retention import Retention
from fedrelease.server.gates.items import Items
from fedrelease.server.gates.subject import SiteScores
from fedrelease.server.gather import Evaluated
from fedrelease.server.journal import entry_for, utc_now
from fedrelease.server.judging import Candidate, attach_report, judge
from fedrelease.server.release import Release
from fedrelease.server.seen_items import EARLIER_SCORES, ITEMS, SCORES, items_of, scores_bytes, scores_of
from fedrelease.server.store import Store
from fedrelease.server.tracing import span
from fedrelease.tasks import TASKS
from fedrelease.update import State, Update, state_bytes

__all__ = ["Cost", "Outcome", "environment_of", "publish"]

PACKAGES = ("fedrelease", "flwr", "numpy", "opacus", "peft", "torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that a round ended with.

    Attributes:
        phase: None for the base, which no gate looks at.
        began: what the sites trained from, on the layout of what they made; for the base the state itself.
        residual: by LoRA layer, see :func:`fedrelease.strategies.lora.residuals`.
    """

    version: str
    phase: Phase | None
    round: int
    strategy: StrategyChoice
    parent: Release | None
    began: State
    state: State
    memory: State
    cohort: Sequence[str]
    updates: Sequence[Update]
    refused: Mapping[str, str]
    evaluated: Evaluated
    residual: Mapping[str, float] = field(default_factory=dict)

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """Of training, then of the hold-outs."""
        return (*(update.receipt for update in self.updates if update.receipt), *self.evaluated.receipts)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a round took. It goes into the log, never into the manifest: equal runs are equal releases."""

    seconds: float
    bytes_up: int
    bytes_down: int


def publish(outcome: Outcome, cost: Cost, *, experiment: Experiment, base: Base, store: Store) -> Release:
    """Put the files into the store, ask the gates, commit the manifest, log it and move channels.

    The gates' report is there before the release: a crash in between leaves a report about nothing, and no release without one.
    """
    items, scores = _seen(outcome, experiment, experiment.labels_at(outcome.round))
    files = tuple(
        _keep(store, path, role, data)
        for path, role, data in (*_files(outcome, experiment), *_seen_files(items, scores))
    )
    manifest = _manifest(outcome, files, experiment=experiment, base=base, store=store)
    reason, channel = None, None
    if outcome.phase is not None and outcome.parent is not None:
        candidate = Candidate(
            draft=manifest,
            state=outcome.state,
            parent=outcome.parent,
            items=items,
            scores=scores.get(SCORES),
            refused=len(outcome.refused),
            began=outcome.began,
            earlier_scores=tuple(found for path, found in scores.items() if path != SCORES),
        )
        with span("gate", version=outcome.version):
            judged = judge(candidate, outcome.phase, experiment=experiment, store=store)
        manifest = replace(manifest, verdict=judged.verdict)
        report, channel = judged.report(manifest), outcome.phase.channel
        reason = report.sentence if judged.verdict == "held" else None
        attach_report(store, report)
    entry = entry_for(
        manifest,
        channels=(channel,) if channel else (),
        time=utc_now(),
        seconds=round(cost.seconds, 3),
        bytes_up=cost.bytes_up,
        bytes_down=cost.bytes_down,
        reason=reason,
    )
    return store.publish(manifest, entry)


def _seen(outcome: Outcome, experiment: Experiment, labels: Labels) -> tuple[Items | None, dict[str, SiteScores]]:
    """What later candidates are compared with, where a gate of the experiment compares at all. Scores by their file.

    Scores on the rows of fewer labels are for comparing with releases that knew no more.
    """
    if not experiment.needs_items:
        return None, {}
    items = items_of(outcome.evaluated.items, labels=TASKS[experiment.model.task].answers(labels))
    if items:
        return items, {}
    fewer = sorted({known for known in experiment.phase_labels if len(known) < len(labels)}, key=len)
    wanted = {SCORES: labels, **{f"{EARLIER_SCORES}{len(known)}-labels.json": known for known in fewer}}
    told = {path: scores_of(outcome.evaluated.answers, experiment, labels=known) for path, known in wanted.items()}
    return None, {path: scores for path, scores in told.items() if scores}


def _seen_files(items: Items | None, scores: Mapping[str, SiteScores]) -> list[tuple[str, str, bytes]]:
    kept = [(ITEMS, "items", items.to_bytes())] if items else []
    return [*kept, *((path, "doc", scores_bytes(found)) for path, found in scores.items())]


def _manifest(
    outcome: Outcome, files: tuple[FileEntry, ...], *, experiment: Experiment, base: Base, store: Store
) -> Manifest:
    """The facts, with a verdict that stands where nobody objects."""
    return Manifest(
        name=experiment.federation.name,
        version=outcome.version,
        verdict="released",
        phase=outcome.phase.name if outcome.phase else "base",
        round=outcome.round,
        parents=(outcome.parent.digest,) if outcome.parent else (),
        files=files,
        base=BaseFacts(ref=experiment.model.base, files=base.files),
        adapter=_adapter(experiment.adapter_at(outcome.round)),
        task=_task(experiment, base, outcome.round),
        federation=_federation(outcome, experiment),
        privacy=_privacy(outcome, experiment, store.head()),
        metrics=_metrics(outcome),
        environment=environment_of(experiment),
    )


def _files(outcome: Outcome, experiment: Experiment) -> list[tuple[str, str, bytes]]:
    """Path, role and bytes of each file. Random numbers follow from the seed and the round, so that is their state."""
    files = [
        ("adapter.safetensors", "adapter", state_bytes(outcome.state)),
        ("rng.json", "rng", canonical_bytes({"seed": experiment.federation.seed, "round": outcome.round})),
        ("experiment.toml", "doc", _experiment_text(experiment)),
    ]
    if outcome.memory:
        files.append(("memory.safetensors", "memory", state_bytes(outcome.memory)))
    if outcome.evaluated.report:
        files.append(("report.json", "doc", canonical_bytes(outcome.evaluated.report)))
    if outcome.residual:  # not in the report, where every name is a site's
        files.append(("residual.json", "doc", canonical_bytes(outcome.residual)))
    return files


def _experiment_text(experiment: Experiment) -> bytes:
    """The resolved experiment, without this store's folder and housekeeping: equal runs in two folders are equal releases."""
    anywhere = replace(experiment.federation, store=type(experiment.federation)().store)
    return to_toml(replace(experiment, federation=anywhere, retention=Retention())).encode()


def _keep(store: Store, path: str, role: str, data: bytes) -> FileEntry:
    return FileEntry(path=path, sha256=store.put_blob(data), size=len(data), role=role)


def _adapter(adapter: Adapter) -> AdapterFacts:
    return AdapterFacts(
        kind=adapter.kind,
        rank=adapter.rank,
        alpha=adapter.alpha,
        targets=adapter.targets,
        layers=adapter.layers,
        rank_stabilised=adapter.rank_stabilised,
        tokens=adapter.tokens if "tokens" in adapter.keys else 0,
        own_rank=adapter.own_rank,
    )


def _task(experiment: Experiment, base: Base, round: int) -> TaskFacts:
    return TaskFacts(
        name=experiment.model.task,
        labels=experiment.labels_at(round),
        max_length=experiment.training.max_length,
        tokenizer=base.tokenizer_digest,
    )


def _federation(outcome: Outcome, experiment: Experiment) -> FederationFacts:
    refused = {**outcome.evaluated.refused, **outcome.refused}
    return FederationFacts(
        name=experiment.federation.name,
        strategy=outcome.strategy.name,
        strategy_params=dict(outcome.strategy.knobs),
        cohort=tuple(outcome.cohort),
        accepted=tuple(Accepted(site=u.site, update=u.digest, examples=u.examples) for u in outcome.updates),
        refused=tuple(Refused(site=site, reason=why) for site, why in sorted(refused.items())),
    )


def _metrics(outcome: Outcome) -> MetricsFacts:
    """What sites and server saw, and the largest residual of any LoRA layer."""
    metrics = outcome.evaluated.metrics
    if not outcome.residual:
        return metrics
    return replace(metrics, server={**metrics.server, RESIDUAL: max(outcome.residual.values())})


def _privacy(outcome: Outcome, experiment: Experiment, head: Release | None) -> PrivacyFacts | None:
    """Totals never fall: a site that told nothing this round still stands where it stood, and so does what a held one cost."""
    privacy = experiment.privacy
    if privacy.unit == "none":
        return None
    before = head.manifest.privacy if head else None
    totals = [receipt.epsilon_total for receipt in outcome.receipts]
    return PrivacyFacts(
        unit=privacy.unit,
        mechanism="dp-sgd; poisson sampling, per-example clipping, gaussian noise; add-or-remove-one",
        clip=privacy.clip,
        accountant=privacy.accountant,
        delta=privacy.delta,
        epsilon_round=max((receipt.epsilon_round for receipt in outcome.receipts), default=0.0),
        epsilon_total=max([*totals, before.epsilon_total if before else 0.0]),
        noise=", ".join(sorted({receipt.noise for receipt in outcome.receipts})) or "none",
        sites=tuple(sorted(outcome.receipts, key=lambda receipt: (receipt.site, receipt.pool))),
    )


def environment_of(experiment: Experiment) -> Mapping[str, str]:
    """What computes a release here, and by which experiment."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "seed": str(experiment.federation.seed),
        "experiment": experiment_digest(experiment),
        **{package: installed(package) for package in PACKAGES},
    }
