"""What a model is for decides how it is built: one entry a task.

Example::

    model = build_model(base, experiment.model, seed=7)
    logits = model(*rows.batch([0, 1]).inputs)
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from fedrelease.experiment import Model
from fedrelease.models.bases import Base
from fedrelease.models.classifier import TextClassifier, build_classifier
from fedrelease.models.network import Network, build_network

__all__ = ["TASKS", "Classifier", "build_model"]

Classifier: TypeAlias = TextClassifier | Network

TASKS: Mapping[str, Callable[..., Classifier]] = {
    "image-classification": build_network,
    "text-classification": build_classifier,
}


def build_model(base: Base, model: Model, *, seed: int) -> Classifier:
    """The model of an experiment, on its base.

    Raises:
        ModelError: the base or the adapter does not fit the task.
    """
    return TASKS[model.task](base, model, seed=seed)
