"""One experiment: the frozen description of a federation, with its bounds.

``experiment_file.py`` reads it from TOML. Every key has a default; a value out of bounds is refused when the object is
made.

Example::

    experiment = Experiment(training=Training(lr=3e-3), phases=(Phase(name="pilot", rounds=2),))
    experiment.rounds        # 2
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate

from fedrelease.adapter import Adapter, AdapterChange
from fedrelease.adapter_plan import adapters_by_phase, check_adapters
from fedrelease.attack import Attack
from fedrelease.bounds import amount, one_of, positive, require
from fedrelease.gate_choice import chosen_gates, needs_items
from fedrelease.gate_rules import GateRule
from fedrelease.label_plan import Labels, check_labels, labels_by_phase
from fedrelease.retention import Retention
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

PRECISIONS = ("float32", "bfloat16", "auto")
TASKS = ("image-classification", "text-classification")
PARTITIONS = ("column", "dirichlet", "iid", "quantity", "shards", "virtual")
UNITS = ("example", "none")
ACCOUNTANTS = ("prv", "rdp")
METRICS_POLICIES = ("exact", "noised", "withheld")
ON_HELD = ("continue", "revert")
CHANNELS = ("beta", "canary", "candidate", "stable")
OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("constant", "linear")
MOST_CHOSEN_FROM = 100_000
"""Sites among which hostile ones are chosen: each one's name is looked at."""
MOST_EVALUATORS = 10_000
"""Virtual sites that may all look at every candidate; with more one has to say how many do."""


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Who runs and where releases go.

    Attributes:
        name: of the model line; letters, digits, ``-``, ``_`` and ``.``.
        seed: everything random in a simulation follows from it.
        store: the folder of releases.
        quorum: share of the cohort that must answer for a round to count.
        evaluators: who looks at each candidate on its own hold-out: a share of all sites (a float) or a number of them (an
            int). 0 = nobody; then only the server's hold-out tells what a release is worth.
        deadline_s: seconds that a round waits for answers.
        keep_updates: keep accepted updates in the spool after their round.
        max_update_norm: an update whose delta is longer (L2, parameter units) is refused.
    """

    name: str = "four-sites"
    seed: int = 7
    store: str = "releases"
    quorum: float = 0.5
    evaluators: float | int = 1.0
    deadline_s: float = 3600.0
    keep_updates: bool = False
    max_update_norm: float = 1000.0

    def __post_init__(self) -> None:
        """Check bounds."""
        named = bool(self.name) and all(letter.isalnum() or letter in "-_." for letter in self.name)
        require(named, "federation.name", self.name, "has letters, digits, '-', '_' and '.' only")
        require(0 <= self.seed < 2**31, "federation.seed", self.seed, "is between 0 and 2147483647")
        require(bool(self.store), "federation.store", self.store, "names a folder")
        require(0 < self.quorum <= 1, "federation.quorum", self.quorum, "is above 0 and at most 1")
        amount("federation.evaluators", self.evaluators, least=0)
        positive("federation.deadline_s", self.deadline_s)
        positive("federation.max_update_norm", self.max_update_norm)


@dataclass(frozen=True, kw_only=True)
class Model:
    """The base, the task and the adapter.

    Attributes:
        base: an alias, a folder or a hub id; for images, ``mlp:784-64``: an untrained network of 784 inputs and 64 hidden units.
        task: ``text-classification`` or ``image-classification``.
        labels: of the task, in the order of the logits; all that any phase has.
        label_texts: for each label a text that says what it means. The head then starts from the base's own vectors of these
            texts, so that version 0.0.0 tells labels apart before anybody has trained; left out = every label equally likely.
        head_scale: text vectors are multiplied by it before the head. Vectors of length 1 leave the head's gradients small
            beside the adapter's; about 5 balances them.
        precision: of the frozen base: ``float32``, ``bfloat16`` (half the memory, and quicker on processors that have it), or
            ``auto``, which a simulation replaces by what its machine is quicker with. What is trained is float32 always.
    """

    base: str = "minilm"
    task: str = "text-classification"
    labels: tuple[str, ...] = ("negative", "positive")
    label_texts: tuple[str, ...] = ()
    head_scale: float = 1.0
    precision: str = "float32"
    adapter: Adapter = field(default_factory=Adapter)

    def __post_init__(self) -> None:
        """Check bounds."""
        require(bool(self.base), "model.base", self.base, "names a base")
        one_of("model.task", self.task, TASKS)
        require(len(self.labels) >= 2, "model.labels", list(self.labels), "has at least two labels")
        require(len(set(self.labels)) == len(self.labels), "model.labels", list(self.labels), "has no label twice")
        fits = len(self.label_texts) in (0, len(self.labels)) and all(text.strip() for text in self.label_texts)
        require(fits, "model.label_texts", list(self.label_texts), "has one text for each label, or is left out")
        positive("model.head_scale", self.head_scale)
        one_of("model.precision", self.precision, PRECISIONS)

    def with_labels(self, count: int) -> "Model":
        """The same model with the first ``count`` labels only."""
        return replace(self, labels=self.labels[:count], label_texts=self.label_texts[:count])


@dataclass(frozen=True, kw_only=True)
class Partition:
    """How rows become sites.

    ``by``: ``column`` (one site per value of ``column``), ``iid``, ``dirichlet`` (label skew with concentration
    ``alpha``), ``shards`` (``shards`` label-sorted pieces a site), ``quantity`` (sizes from a Dirichlet with
    ``alpha``), ``virtual`` (a site is a draw of ``rows`` training rows from all of them, with replacement and label skew
    ``alpha``, made when the site is asked: as many sites as you like).
    """

    by: str = "column"
    column: str = "site"
    sites: int = 4
    alpha: float = 0.5
    shards: int = 2
    rows: int = 20

    def __post_init__(self) -> None:
        """Check bounds."""
        one_of("data.partition.by", self.by, PARTITIONS)
        require(bool(self.column), "data.partition.column", self.column, "names a column")
        require(1 <= self.sites <= 10**9, "data.partition.sites", self.sites, "is between 1 and 1000000000")
        require(1 <= self.rows <= 1_000_000, "data.partition.rows", self.rows, "is between 1 and 1000000")
        positive("data.partition.alpha", self.alpha)
        require(1 <= self.shards <= 10_000, "data.partition.shards", self.shards, "is between 1 and 10000")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where rows come from and what is held out.

    Attributes:
        source: a built-in name, a ``.csv``/``.jsonl``/``.parquet`` file, a ``datasets`` folder, or a hub id.
        text: column of the input text.
        label: column of the label.
        holdout: share of each site's rows that the site never trains on.
        server_holdout: share of all rows that no site sees and the server evaluates on.
        limit_per_site: at most that many rows a site (before the hold-out is split off).
        holdout_limit: at most that many hold-out rows a site.
    """

    source: str = "four-sites"
    text: str = "text"
    label: str = "label"
    holdout: float = 0.2
    server_holdout: float = 0.0
    limit_per_site: int | None = None
    holdout_limit: int | None = None
    partition: Partition = field(default_factory=Partition)

    def __post_init__(self) -> None:
        """Check bounds."""
        require(bool(self.source), "data.source", self.source, "names a source")
        require(0 < self.holdout < 1, "data.holdout", self.holdout, "is above 0 and below 1")
        require(0 <= self.server_holdout < 1, "data.server_holdout", self.server_holdout, "is at least 0 and below 1")
        for key, limit in (("limit_per_site", self.limit_per_site), ("holdout_limit", self.holdout_limit)):
            require(limit is None or limit >= 1, f"data.{key}", limit, "is at least 1, or left out")
        rule, hint = "is left out with virtual sites", "set data.partition.rows instead"
        require(
            self.partition.by != "virtual" or not self.limit_per_site,
            "data.limit_per_site",
            self.limit_per_site,
            rule,
            hint,
        )


@dataclass(frozen=True, kw_only=True)
class Training:
    """Local training of one site in one round.

    Attributes:
        epochs: passes over the site's training rows in a round; may be a fraction.
        max_steps: at most that many steps in a round, so that a large site does not drift further than the others; left out =
            no limit.
        batch_size: rows a step; with privacy the *expected* number under Poisson sampling.
        micro_batch: rows that go through the model at once; changes memory, not the result's meaning.
        lr: learning rate of the adapter. head_lr: of the task head; left out = ``lr``.
        optimizer: ``adamw`` or ``sgd`` (momentum 0.9). schedule: ``constant``, or ``linear`` to 0 over the whole plan.
        warmup: share of the whole plan's steps over which the rate rises from 0.
        weight_decay: decoupled (Loshchilov and Hutter, 2019) with adamw; added to the gradient with sgd.
        grad_clip: bound on the gradient's norm without privacy; left out = none.
        patience: without privacy, stop a round early after so many epochs without a better loss on the site's hold-out.
        max_length: tokens after which a text is cut.
        keep_prefix: keep what the frozen layers below the adapter give for each row on the site's disk, instead of computing
            it in every step; about 1.5 kB a token for a base of width 384.
    """

    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 32
    micro_batch: int = 32
    lr: float = 1e-3
    head_lr: float | None = None
    optimizer: str = "adamw"
    schedule: str = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.0
    grad_clip: float | None = None
    patience: int | None = None
    max_length: int = 128
    keep_prefix: bool = True

    def __post_init__(self) -> None:
        """Check bounds."""
        positive("training.epochs", self.epochs)
        for key in ("batch_size", "micro_batch"):
            require(1 <= getattr(self, key) <= 1_000_000, f"training.{key}", getattr(self, key), "is at least 1")
        require(4 <= self.max_length <= 32_768, "training.max_length", self.max_length, "is between 4 and 32768")
        positive("training.lr", self.lr)
        one_of("training.optimizer", self.optimizer, OPTIMIZERS)
        one_of("training.schedule", self.schedule, SCHEDULES)
        require(0 <= self.warmup < 1, "training.warmup", self.warmup, "is at least 0 and below 1")
        fits = math.isfinite(self.weight_decay) and self.weight_decay >= 0
        require(fits, "training.weight_decay", self.weight_decay, "is a number of at least 0")
        for key, value in (("head_lr", self.head_lr), ("grad_clip", self.grad_clip)):
            if value is not None:
                positive(f"training.{key}", value)
        require(self.max_steps is None or self.max_steps >= 1, "training.max_steps", self.max_steps, "is at least 1")
        require(self.patience is None or self.patience >= 1, "training.patience", self.patience, "is at least 1")


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """The least protection of every site.

    Attributes:
        unit: ``example`` (differential privacy for one row) or ``none``.
        epsilon: budget of the whole plan of rounds, at ``delta``.
        clip: L2 bound on one example's gradient.
        accountant: ``prv`` (tight) or ``rdp``.
        metrics: what sites tell about their hold-outs: ``noised`` (a confusion matrix with calibrated noise, inside the
            same epsilon and delta), ``withheld``, or ``exact`` (outside of the guarantee; for experiments).
    """

    unit: str = "example"
    epsilon: float = 8.0
    delta: float = 1e-5
    clip: float = 1.0
    accountant: str = "prv"
    metrics: str = "noised"

    def __post_init__(self) -> None:
        """Check bounds."""
        one_of("privacy.unit", self.unit, UNITS)
        positive("privacy.epsilon", self.epsilon)
        require(0 < self.delta < 1, "privacy.delta", self.delta, "is above 0 and below 1")
        positive("privacy.clip", self.clip)
        one_of("privacy.accountant", self.accountant, ACCOUNTANTS)
        one_of("privacy.metrics", self.metrics, METRICS_POLICIES)


@dataclass(frozen=True, kw_only=True)
class StrategyChoice:
    """A strategy by name, with its knobs. Which names and knobs exist is the strategies' business."""

    name: str = "fedavg"
    knobs: Mapping[str, float | int | bool | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that it can be written down: names of knobs are words, and their numbers are finite."""
        require(bool(self.name), "phase.strategy.name", self.name, "is not empty")
        for knob, value in self.knobs.items():
            word = knob.isascii() and knob.isidentifier() and knob != "name"
            require(word, f"phase.strategy.{knob}", knob, "has a name of letters, digits and '_' other than 'name'")
            finite = isinstance(value, str) or math.isfinite(value)
            require(finite, f"phase.strategy.{knob}", value, "is not NaN and not infinite")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of rounds: its cohort, strategy and channel.

    ``sites``: the only sites that may be asked to train, by name; none named = all. ``sites_per_round``: a share of them (a
    float, 0 < share <= 1) or a number of sites (an int). All sites evaluate, whoever trains.

    ``gates``: knobs of gates by name, beside those that always look (``DEFAULT_GATES``). ``on_held``: where the round after a
    held release starts: ``continue`` from it, ``revert`` to the newest one that was released; left out = ``continue``.

    ``labels``: how many of ``model.labels`` the phase has, from the first; left out = those of the phase before, and all of
    them in the first phase. A phase with more than the one before grows the model's head, and MAJOR of its versions rises.

    ``adapter``: keys of ``[model.adapter]`` that the phase and those after it have otherwise. What was learned stays as it is, so
    that an adapter only grows; MAJOR rises.
    """

    name: str = "main"
    rounds: int = 5
    sites_per_round: float | int = 1.0
    sites: tuple[str, ...] = ()
    strategy: StrategyChoice = field(default_factory=StrategyChoice)
    channel: str = "stable"
    gates: Mapping[str, Mapping[str, float | int | bool | str]] = field(default_factory=dict)
    on_held: str | None = None
    labels: tuple[str, ...] | None = None
    adapter: AdapterChange = field(default_factory=AdapterChange)

    def __post_init__(self) -> None:
        """Check bounds."""
        require(bool(self.name), "phase.name", self.name, "is not empty")
        require(1 <= self.rounds <= 100_000, "phase.rounds", self.rounds, "is between 1 and 100000")
        amount("phase.sites_per_round", self.sites_per_round, least=1)
        require(len(set(self.sites)) == len(self.sites), "phase.sites", list(self.sites), "names no site twice")
        one_of("phase.channel", self.channel, CHANNELS)
        one_of("phase.on_held", self.on_held or "continue", ON_HELD)
        chosen_gates(self.gates)

    @property
    def rules(self) -> Mapping[str, GateRule]:
        """The gates of the phase, by name."""
        return chosen_gates(self.gates)

    @property
    def reverts(self) -> bool:
        """Whether a held release is left aside by the round after it."""
        return self.on_held == "revert"


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
        sites, evaluators = self.data.partition, self.federation.evaluators
        many = sites.by == "virtual" and sites.sites > MOST_EVALUATORS and evaluators == 1.0
        rule = f"is not all of {sites.sites} virtual sites: every one of them would look at every candidate"
        hint = "set federation.evaluators = 100, or 0 and data.server_holdout = 0.2"
        require(not (many and isinstance(evaluators, float)), "federation.evaluators", evaluators, rule, hint)
        check_labels(self.model.labels, [phase.labels for phase in self.phases])
        check_adapters(self.model.adapter, [phase.adapter for phase in self.phases])
        self._check_attack()
        self._check_transport()

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
        rule = f"is none with more than {MOST_CHOSEN_FROM} virtual sites"
        grows = attack.poisons_rows and len(set(self.phase_labels)) > 1
        require(not grows, "attack.kind", attack.kind, "changes what sites send, where phases add labels", hint)
        many = drawn and sites.sites > MOST_CHOSEN_FROM
        require(not many or attack.kind == "none", "attack.kind", attack.kind, rule, "lower data.partition.sites")

    def _check_transport(self) -> None:
        travels, attack = self.transport, self.attack
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
