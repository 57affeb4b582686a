"""What the server computes with a model of its own: the first state, and what it sees on its own hold-out.

Example::

    initial_state(base, experiment)["head.weight"]
    server_look(base, experiment, holdout)(state)        # {'accuracy': 0.81, ...}

Apart from the server's app, which imports it only when it is asked for: it brings the libraries that models are built with, and a
server that does neither is spared their memory.
"""

from collections.abc import Callable
from pathlib import Path

from fedrelease.data.row_files import open_rows
from fedrelease.data.tokens import load_tokenizer
from fedrelease.experiment import Experiment
from fedrelease.models.bases import Base
from fedrelease.models.classifier import TextClassifier, load_state, trainable_state
from fedrelease.models.evaluation import look, outcomes
from fedrelease.models.metrics import scores
from fedrelease.models.tasks import Classifier, build_model
from fedrelease.models.zero_shot import label_vectors
from fedrelease.server.gather import Seen
from fedrelease.update import State

__all__ = ["drawn_state", "initial_state", "server_look"]


def _classifier(base: Base, experiment: Experiment) -> Classifier:
    return build_model(base, experiment.model, seed=experiment.federation.seed)


def initial_state(base: Base, experiment: Experiment) -> State:
    """The state of version 0.0.0: factors as they are drawn, and a head that is zero or starts from the labels' texts."""
    return drawn_state(_classifier(base, experiment), base, experiment)


def drawn_state(classifier: Classifier, base: Base, experiment: Experiment) -> State:
    """The same, from a model of the experiment that is there already: whatever state it has is drawn anew, in place."""
    classifier.draw(experiment.federation.seed)
    texts = experiment.model.label_texts
    state = trainable_state(classifier)
    if not texts or not isinstance(classifier, TextClassifier):
        return state
    tokenizer = load_tokenizer(base.folder)
    head = label_vectors(classifier, tokenizer, texts, max_length=experiment.training.max_length)
    return {**state, "head.weight": head}


def server_look(base: Base, experiment: Experiment, holdout: Path) -> Callable[[State], Seen]:
    """What a state does on the rows of ``holdout``, as a function of the state; the model is built once."""
    model, rows = _classifier(base, experiment), open_rows(holdout)

    def on_server(state: State) -> Seen:
        load_state(model, state)
        matrix, loss = look(model, rows, classes=len(experiment.model.labels))
        items = outcomes(model, rows, experiment.model.labels) if experiment.needs_items else None
        return Seen(metrics={**scores(matrix), "loss": loss}, items=items)

    return on_server
