"""One experiment: the frozen description of a federation, with its bounds.

``experiment_file.py`` reads it from TOML. Every key has a default; a value out of bounds is refused when the object is
made.

Example::

    experiment = Experiment(training=Training(lr=3e-3), phases=(Phase(name="pilot", rounds=2),))
    experiment.rounds        # 2
"""

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from itertools import accumulate

from fedrelease.adapter import Adapter, AdapterChange
from fedrelease.adapter_plan import adapters_by_phase, check_adapters
from fedrelease.attack import Attack
from fedrelease.bounds import require
from fedrelease.experiment_data import Data, Partition
from fedrelease.experiment_sections import (
    CLASSIFICATION,
    TELLING,
    WHOLE_ROWS,
    Federation,
    Model,
    Phase,
    Privacy,
    StrategyChoice,
)
from fedrelease.experiment_training import Training
from fedrelease.gate_choice import needs_items
from fedrelease.label_plan import Labels, check_labels, labels_by_phase
from fedrelease.retention import Retention
from fedrelease.training_rules import check_training
from fedrelease.transport import Transport
from fedrelease.virtual_time import VirtualTime

__all__ = [
    "Adapter",
    "AdapterChange",
    "Data",
    "Experiment",
    "Federation",
    "Model",
    "Partition",
    "Phase",
    "Privacy",
    "StrategyChoice",
    "Training",
]

BY_LABEL = ("dirichlet", "shards")
"""Partitions that need labels."""
NEEDED = {
    "range": "data.range = [-4.0, 4.0]: the least and the greatest number that a row may have",
    "text_pair": "name the column of the second text",
}
MOST_CHOSEN_FROM = 100_000
"""Sites among which hostile ones are chosen: each one's name is looked at."""
MOST_EVALUATORS = 10_000
"""Virtual sites that may all look at every candidate; with more one has to say how many do."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A whole federation."""

    federation: Federation = field(default_factory=Federation)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)
    privacy: Privacy = field(default_factory=Privacy)
    virtual_time: VirtualTime = field(default_factory=VirtualTime)
    attack: Attack = field(default_factory=Attack)
    retention: Retention = field(default_factory=Retention)
    transport: Transport = field(default_factory=Transport)
    phases: tuple[Phase, ...] = field(default_factory=lambda: (Phase(),))

    def __post_init__(self) -> None:
        """Check what holds between sections."""
        require(len(self.phases) >= 1, "phase", len(self.phases), "appears at least once")
        private = self.privacy.unit != "none"
        hint = 'leave training.patience out, or set [privacy] unit = "none"'
        rule = "is left out with privacy: stopping by a private loss would be an unaccounted release"
        require(not (private and self.training.patience), "training.patience", self.training.patience, rule, hint)
        rule = "is left out with privacy: every example is already clipped to privacy.clip"
        require(not (private and self.training.grad_clip), "training.grad_clip", self.training.grad_clip, rule)
        names = [phase.strategy.name for phase in self.phases]
        task, labels = self.model.task, self.model.labels
        check_training(self.training, task=task, labels=labels, private=private, strategies=names)
        sites, evaluators = self.data.partition, self.federation.evaluators
        many = sites.by == "virtual" and sites.sites > MOST_EVALUATORS and evaluators == 1.0
        rule = f"is not all of {sites.sites} virtual sites: every one of them would look at every candidate"
        hint = "set federation.evaluators = 100, or 0 and data.server_holdout = 0.2"
        require(not (many and isinstance(evaluators, float)), "federation.evaluators", evaluators, rule, hint)
        check_labels(self.model.labels, [phase.labels for phase in self.phases])
        self._check_task()
        check_adapters(self.model.adapter, [phase.adapter for phase in self.phases])
        self._check_attack()
        self._check_transport()

    def _check_task(self) -> None:
        words, prompt, task = self.data.words_per_text, self.data.prompt, self.model.task
        rule, hint = "is for causal-lm and masked-lm", "leave it out, and set training.max_length"
        require(words is None or task in ("causal-lm", "masked-lm"), "data.words_per_text", words, rule, hint)
        rule, hint = "is for causal-lm", "leave it out"
        require(prompt is None or task == "causal-lm", "data.prompt", prompt, rule, hint)
        self._check_columns()
        if self.model.task in CLASSIFICATION:
            return
        rule, hint = f"changes what sites send, with {self.model.task}", "choose sign-flip"
        require(not self.attack.poisons_rows, "attack.kind", self.attack.kind, rule, hint)
        if self.model.task in WHOLE_ROWS:
            return
        rule, hint = f"is left out with {self.model.task}", "only tasks with one label a row add labels"
        grows = len(set(self.phase_labels)) > 1
        require(not grows, "phase.labels", [list(labels) for labels in self.phase_labels], rule, hint)
        rule, hint = f"is not virtual with {self.model.task}", 'set data.partition.by = "iid"'
        require(self.data.partition.by != "virtual", "data.partition.by", self.data.partition.by, rule, hint)
        if self.model.task in TELLING:
            self._check_language_model()

    def _check_columns(self) -> None:
        """Keys of [data] that one task has and needs, and others have no use for."""
        data, task = self.data, self.model.task
        for key, owner, needed in (
            ("text_pair", "pair-classification", True),
            ("range", "regression", True),
            ("tolerance", "regression", False),
        ):
            value: object = getattr(data, key)
            hint = f'leave it out, or set model.task = "{owner}"'
            require(value is None or task == owner, f"data.{key}", value, f"is for {owner}", hint)
            rule, hint = f"is set with {owner}", NEEDED[key] if needed else ""
            require(value is not None or task != owner or not needed, f"data.{key}", value, rule, hint)
        uneven = task == "regression" and data.partition.by in BY_LABEL
        rule, hint = "goes by labels, and regression has none", 'set data.partition.by = "iid", "column" or "quantity"'
        require(not uneven, "data.partition.by", data.partition.by, rule, hint)

    def _check_language_model(self) -> None:
        task = self.model.task
        rule, hint = f"is 1 with {task}, whose last layer is the base's own", "leave it out"
        require(self.model.head_scale == 1.0, "model.head_scale", self.model.head_scale, rule, hint)
        whole = self.privacy.unit != "none" and any(adapter.kind == "full" for adapter in self.phase_adapters)
        rule = f"is not full with {task} and privacy: the table of words is used twice, to read and to write"
        hint = 'set model.adapter.kind = "lora", or privacy.unit = "none"'
        require(not whole, "model.adapter.kind", "full", rule, hint)
        rule = f"is not head with {task}, whose only head is the base's own and stays frozen: nothing would be trained"
        hint = 'set model.adapter.kind = "norms", or "lora" with targets = "attention" and a small rank'
        require(self.model.adapter.kind != "head", "model.adapter.kind", "head", rule, hint)

    def _check_attack(self) -> None:
        attack, sites, labels = self.attack, self.data.partition, self.model.labels
        rule = f"is one of model.labels, {', '.join(labels)}"
        require(attack.target is None or attack.target in labels, "attack.target", attack.target, rule)
        rule, hint = (
            "changes what sites send, where they are virtual: these have no rows of their own",
            "choose sign-flip",
        )
        drawn = sites.by == "virtual"
        require(not (drawn and attack.poisons_rows), "attack.kind", attack.kind, rule, hint)
        single = self.model.task in CLASSIFICATION or not attack.poisons_rows
        require(single, "attack.kind", attack.kind, f"changes what sites send, with {self.model.task}", hint)
        rule = f"is none with more than {MOST_CHOSEN_FROM} virtual sites"
        grows = attack.poisons_rows and len(set(self.phase_labels)) > 1
        require(not grows, "attack.kind", attack.kind, "changes what sites send, where phases add labels", hint)
        many = drawn and sites.sites > MOST_CHOSEN_FROM
        require(not many or attack.kind == "none", "attack.kind", attack.kind, rule, "lower data.partition.sites")

    def _check_transport(self) -> None:
        travels, attack = self.transport, self.attack
        timed = self.virtual_time.mbit_per_s is not None
        rule, hint = "is float32 on virtual time with lines, which reckons with it", "leave transport.down out"
        require(not (timed and travels.is_narrow), "transport.down", travels.down, rule, hint)
        rule, hint = "is float32 where hostile sites change what they send", "leave transport.codec out, or attack.kind"
        changed = attack.kind != "none" and not attack.poisons_rows
        require(not (changed and travels.is_coded), "transport.codec", travels.codec, rule, hint)
        rule = "is false where sites are virtual: few are asked again, and what they left out would never be sent"
        kept = travels.is_coded and travels.error_feedback and self.data.partition.by == "virtual"
        require(not kept, "transport.error_feedback", True, rule, "set transport.error_feedback = false")

    @property
    def needs_items(self) -> bool:
        """Whether a gate of any phase compares item by item."""
        return any(needs_items(phase.gates) for phase in self.phases)

    @property
    def tells_items(self) -> bool:
        """Whether sites tell what a candidate said about each row of their hold-outs: a gate needs it, and privacy lets it."""
        return self.needs_items and (self.privacy.unit == "none" or self.privacy.metrics == "exact")

    @property
    def phase_labels(self) -> tuple[Labels, ...]:
        """The labels of each phase."""
        return labels_by_phase(self.model.labels, [phase.labels for phase in self.phases])

    @property
    def phase_adapters(self) -> tuple[Adapter, ...]:
        """The adapter of each phase."""
        return adapters_by_phase(self.model.adapter, [phase.adapter for phase in self.phases])

    def labels_at(self, round: int) -> Labels:
        """The labels of the release that a round makes; round 0 is the base, which has those of the first phase."""
        return self.phase_labels[self._phase_at(round)]

    def adapter_at(self, round: int) -> Adapter:
        """The adapter of that release; the base has that of the first phase."""
        return self.phase_adapters[self._phase_at(round)]

    def model_at(self, round: int) -> Model:
        """The model of that round: the whole one with its phase's adapter, and the labels that are known by then."""
        known = self.model.with_labels(len(self.labels_at(round)))
        return replace(known, adapter=self.adapter_at(round))

    def _phase_at(self, round: int) -> int:
        """The place of the phase that a round lies in; the last one's for rounds beyond the plan."""
        ends = list(accumulate(phase.rounds for phase in self.phases))
        return min(bisect_left(ends, round), len(ends) - 1)

    @property
    def rounds(self) -> int:
        """Rounds of the whole plan."""
        return sum(phase.rounds for phase in self.phases)
