"""The section of an experiment that says how one site trains in one round, with its bounds.

Example::

    Training(batch_size=64, schedule="cosine")
    Training(lr=-1)                          # ExperimentError: training.lr is above 0
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedrelease.augment import Augment
from fedrelease.bounds import one_of, positive, require

__all__ = ["Training"]

OPTIMIZERS = ("adagrad", "adamw", "sgd")
SCHEDULES = ("constant", "cosine", "linear")


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
        optimizer: ``adamw``, ``adagrad`` or ``sgd`` (momentum 0.9).
        schedule: ``constant``, or ``linear`` or ``cosine`` to 0 over the whole plan.
        warmup: share of the whole plan's steps over which the rate rises from 0.
        weight_decay: decoupled (Loshchilov and Hutter, 2019) with adamw; added to the gradient with the others.
        grad_clip: bound on the gradient's norm without privacy; left out = none.
        patience: without privacy, stop a round early after so many epochs without a better loss on the site's hold-out.
        max_length: tokens after which a text is cut.
        keep_prefix: keep what the frozen layers below the adapter give for each row on the site's disk, instead of computing
            it in every step; about 1.5 kB a token for a base of width 384.
        label_smoothing: share of each row's truth that is dealt evenly to all labels (Szegedy et al., 2016).
        class_weights: by label, what a row's loss is multiplied by in training; labels that are not named have 1.
        balance_classes: without privacy, weights that make every label of a site weigh as much as every other.
        dropout: share of what trained layers are given that is set to 0 in training, drawn for each row by itself.
        keep_best: without privacy, a site sends the state of the epoch with the best loss on its hold-out, not the last one.
        checkpointing: keep only what each layer is given, and compute the rest again on the way back: less memory, more time.
        augment: random changes of training rows.
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
    label_smoothing: float = 0.0
    class_weights: Mapping[str, float] = field(default_factory=dict)
    balance_classes: bool = False
    dropout: float = 0.0
    keep_best: bool = False
    checkpointing: bool = False
    augment: Augment = field(default_factory=Augment)

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
        for key in ("label_smoothing", "dropout"):
            require(0 <= getattr(self, key) < 1, f"training.{key}", getattr(self, key), "is at least 0 and below 1")
