"""The sections of an experiment, each with its bounds; :mod:`fedrelease.experiment` puts them together.

Example::

    Phase(name="pilot", rounds=2, sites_per_round=4)
    Federation(seed=-1)                      # ExperimentError: federation.seed is between 0 and 2147483647
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedrelease.adapter import Adapter, AdapterChange
from fedrelease.bounds import amount, one_of, positive, require
from fedrelease.gate_choice import chosen_gates
from fedrelease.gate_rules import GateRule
from fedrelease.many_labels import check_many

__all__ = [
    "Federation",
    "Model",
    "Phase",
    "Privacy",
    "StrategyChoice",
]

_TOLD = {
    "causal-lm": "the next token",
    "masked-lm": "masked tokens",
    "regression": "a number",
    "seq2seq": "the next token",
}
BATCH_NORMS = ("frozen", "group")
PRECISIONS = ("float32", "bfloat16", "auto")
CLASSIFICATION = ("image-classification", "text-classification")
WHOLE_ROWS = ("image-classification", "pair-classification", "text-classification")
"""Tasks whose rows have one label each: phases can add labels, and virtual sites draw rows by them."""
TELLING = ("causal-lm", "masked-lm", "seq2seq")
"""Tasks that tell tokens with a base's own last layer, and have no labels of their own."""
TASKS = (
    "causal-lm",
    *WHOLE_ROWS,
    "masked-lm",
    "multi-label-classification",
    "regression",
    "seq2seq",
    "token-classification",
)
NEXT_TOKEN = ("wrong", "right")
"""The labels of ``TELLING``: whether a token was told. ``RIGHT`` is the place of the second."""
NEAR = ("off", "near")
"""The labels of ``regression``: whether a number was told within the tolerance; ``RIGHT`` is the place of the second, too."""
RIGHT = 1
FIXED_LABELS: Mapping[str, tuple[str, ...]] = {**dict.fromkeys(TELLING, NEXT_TOKEN), "regression": NEAR}
"""Of tasks that nobody names labels for."""
UNITS = ("example", "none")
ACCOUNTANTS = ("prv", "rdp")
METRICS_POLICIES = ("exact", "noised", "withheld")
ON_HELD = ("continue", "revert")
CHANNELS = ("beta", "canary", "candidate", "stable")


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
        straggler_factor: with partner sites, once the quorum has answered, the others have at most so many times the median time
            of those who have, and never more than ``deadline_s``; left out = they have ``deadline_s``. In a simulation nobody is
            late, and it changes nothing.
        keep_updates: keep accepted updates in the spool after their round.
        max_update_norm: an update whose delta is longer (L2, parameter units) is refused.
    """

    name: str = "four-sites"
    seed: int = 7
    store: str = "releases"
    quorum: float = 0.5
    evaluators: float | int = 1.0
    deadline_s: float = 3600.0
    straggler_factor: float | None = None
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
        factor = self.straggler_factor
        rule = "is a number of at least 1, or left out"
        require(factor is None or (math.isfinite(factor) and factor >= 1), "federation.straggler_factor", factor, rule)
        positive("federation.max_update_norm", self.max_update_norm)


@dataclass(frozen=True, kw_only=True)
class Model:
    """The base, the task and the adapter.

    Attributes:
        base: an alias, a folder or a hub id; for images, ``mlp:784-64``: an untrained network of 784 inputs and 64 hidden units.
        task: ``text-classification``, ``multi-label-classification`` (any number of labels), ``pair-classification`` (two texts),
            ``regression`` (a number), ``token-classification`` (a tag for each word), ``causal-lm`` (the next token),
            ``masked-lm`` (a token that was hidden), ``seq2seq`` (a text from a text) or ``image-classification``.
        labels: of the task, in the order of the logits; all that any phase has. Of ``token-classification`` the first one marks
            words that are nothing, usually ``O``. Left out with ``regression``, and where tokens are told.
        label_texts: for each label a text that says what it means. The head then starts from the base's own vectors of these
            texts, so that version 0.0.0 tells labels apart before anybody has trained; left out = every label equally likely.
        head_scale: text vectors are multiplied by it before the head. Vectors of length 1 leave the head's gradients small
            beside the adapter's; about 5 balances them.
        precision: of the frozen base: ``float32``, ``bfloat16`` (half the memory, and quicker on processors that have it), or
            ``auto``, which a simulation replaces by what its machine is quicker with. What is trained is float32 always.
        batch_norm: what becomes of the BatchNorm of a vision base, in which rows of a batch see each other: ``frozen`` (with the
            statistics that it came with), or ``group`` (replaced by GroupNorm).
    """

    base: str = "minilm"
    task: str = "text-classification"
    labels: tuple[str, ...] = ("negative", "positive")
    label_texts: tuple[str, ...] = ()
    head_scale: float = 1.0
    precision: str = "float32"
    batch_norm: str = "frozen"
    adapter: Adapter = field(default_factory=Adapter)

    def __post_init__(self) -> None:
        """Check bounds."""
        require(bool(self.base), "model.base", self.base, "names a base")
        one_of("model.task", self.task, TASKS)
        if self.task in FIXED_LABELS:
            fixed = FIXED_LABELS[self.task]
            rule = f"is left out with {self.task}, which tells {_TOLD[self.task]}"
            require(self.labels in (fixed, type(self).labels), "model.labels", list(self.labels), rule)
            object.__setattr__(self, "labels", fixed)
        require(len(self.labels) >= 2, "model.labels", list(self.labels), "has at least two labels")
        require(len(set(self.labels)) == len(self.labels), "model.labels", list(self.labels), "has no label twice")
        fits = len(self.label_texts) in (0, len(self.labels)) and all(text.strip() for text in self.label_texts)
        require(fits, "model.label_texts", list(self.label_texts), "has one text for each label, or is left out")
        if self.task == "multi-label-classification":
            check_many(self.labels)
        rule = "is left out: only text-classification compares a text with what a label means"
        known = not self.label_texts or self.task in CLASSIFICATION
        require(known, "model.label_texts", list(self.label_texts), rule)
        rule = f"is neither prompt nor prefix with {self.task}: vectors stand before one text that is read"
        fits = self.task not in ("image-classification", "seq2seq") or "tokens" not in self.adapter.keys
        hint = 'set model.adapter.kind = "bottleneck" or "lora"'
        require(fits, "model.adapter.kind", self.adapter.kind, rule, hint)
        positive("model.head_scale", self.head_scale)
        one_of("model.precision", self.precision, PRECISIONS)
        one_of("model.batch_norm", self.batch_norm, BATCH_NORMS)

    def with_labels(self, count: int) -> "Model":
        """The same model with the first ``count`` labels only."""
        return replace(self, labels=self.labels[:count], label_texts=self.label_texts[:count])


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
