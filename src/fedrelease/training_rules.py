"""Which keys of ``[training]`` go together with each other, with the task and with privacy.

Example::

    check_training(experiment.training, task="causal-lm", labels=labels, private=True)       # ExperimentError names the key
"""

import math
from collections.abc import Sequence

from fedrelease.augment import Augment
from fedrelease.bounds import require
from fedrelease.experiment_training import Training

__all__ = ["MASKED", "SHAPED", "VARIATES", "check_training", "is_plain"]

SHAPED = ("image-classification", "pair-classification", "text-classification", "token-classification")
"""Tasks whose loss can have smoothed labels and weights of classes."""
MASKED = ("text-classification", "token-classification")
"""Tasks whose texts can lose tokens; where the next token is told, each token is a truth as well."""


VARIATES = ("feddyn", "scaffold")
"""Strategies whose sites keep a control variate of all of a round's steps."""


def check_training(
    training: Training, *, task: str, labels: Sequence[str], private: bool, strategies: Sequence[str] = ()
) -> None:
    """Refuse what does not go together; ``strategies`` are the phases', by name.

    Raises:
        ExperimentError: it names the key.
    """
    _check_losses(training, task, labels)
    _check_rows(training, task)
    kept = sorted({*strategies} & {*VARIATES})
    rule = f"is false with {' and '.join(kept)}: a site's control variate is of all steps of a round, and it sends the last state"
    hint = "leave training.keep_best out, or choose a strategy such as fedavg"
    require(not (training.keep_best and kept), "training.keep_best", True, rule, hint)
    if private:
        _check_private(training)


def _check_losses(training: Training, task: str, labels: Sequence[str]) -> None:
    given = {"label_smoothing": training.label_smoothing, "class_weights": dict(training.class_weights)}
    for key, value in {**given, "balance_classes": training.balance_classes}.items():
        rule = f"is left out with {task}: it is for {', '.join(SHAPED)}"
        require(not value or task in SHAPED, f"training.{key}", value, rule)
    for label, weight in training.class_weights.items():
        rule = f"names labels of model.labels, {', '.join(labels)}"
        require(label in labels, "training.class_weights", label, rule)
        fits = math.isfinite(weight) and weight > 0
        require(fits, "training.class_weights", f"{label} = {weight}", "has numbers above 0")
    both = training.balance_classes and bool(training.class_weights)
    rule = "is left out where training.balance_classes says them"
    require(not both, "training.class_weights", dict(training.class_weights), rule, "choose one of the two")


def _check_rows(training: Training, task: str) -> None:
    augment, hint = training.augment, "leave it out"
    rule = f"is for {', '.join(MASKED)}"
    require(not augment.tokens or task in MASKED, "training.augment.tokens", augment.tokens, rule, hint)
    fits, rule = task == "image-classification", "is for image-classification"
    require(not augment.flip or fits, "training.augment.flip", augment.flip, rule, hint)
    require(not augment.shift or fits, "training.augment.shift", augment.shift, rule, hint)


def _check_private(training: Training) -> None:
    rule = "is false with privacy: how often a label occurs at a site is private"
    hint = "write weights that are public into training.class_weights, such as { spam = 3.0 }"
    require(not training.balance_classes, "training.balance_classes", True, rule, hint)
    rule = "is false with privacy: choosing by a private hold-out would be an unaccounted release"
    hint = 'leave training.keep_best out, or set [privacy] unit = "none"'
    require(not training.keep_best, "training.keep_best", True, rule, hint)


def is_plain(training: Training) -> bool:
    """Whether every step is of the task's plain losses, of rows as they are, and the last state is what a site sends."""
    shaped = training.label_smoothing > 0 or bool(training.class_weights) or training.balance_classes
    changed = training.dropout > 0 or training.augment != Augment()
    return not (shaped or changed or training.keep_best or training.checkpointing)
