"""The model of an experiment, built as its task says.

Example::

    model = build_model(base, experiment.model, seed=7)
    losses = task_of(model).losses(model(*batch.inputs), batch)
"""

from typing import TypeAlias, cast

from torch import nn

from fedrelease.experiment import Model
from fedrelease.models.bases import Base
from fedrelease.models.classifier import TextClassifier
from fedrelease.models.images import ImageClassifier
from fedrelease.models.network import Network
from fedrelease.models.sequences import SequenceModel
from fedrelease.tasks import TASKS
from fedrelease.tasks.contract import Task

__all__ = ["Classifier", "build_model", "task_of"]

Classifier: TypeAlias = TextClassifier | Network | ImageClassifier | SequenceModel


def build_model(base: Base, model: Model, *, seed: int) -> Classifier:
    """The model of an experiment, on its base.

    Raises:
        ModelError: the base or the adapter does not fit the task.
    """
    built = cast(Classifier, TASKS[model.task].build(base, model, seed=seed))
    built.task = model.task
    return built


def task_of(model: nn.Module) -> Task:
    """What a model of :func:`build_model` is for."""
    return TASKS[cast(Classifier, model).task]
