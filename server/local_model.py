"""What the server computes with a model of its own: the first state, and what it sees on its own hold-out.

Example::

    initial_state(base, experiment)["head.weight"]
    server_look(base, experiment, holdout)(state, 3)     # of round 3: {'accuracy': 0.81, ...}

Apart from the server's app, which imports it only when it is asked for: it brings the libraries that models are built with, and a
server that does neither is spared their memory.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from fedrelease.data.row_files import of_labels, open_rows
from fedrelease.data.tokens import load_tokenizer
from fedrelease.experiment import Experiment, Model
from fedrelease.models.bases import Base
from fedrelease.models.classifier import TextClassifier, load_state, trainable_state
from fedrelease.models.engines import check_private
from fedrelease.models.evaluation import judge, outcomes, tally
from fedrelease.models.prompts import check_room
from fedrelease.models.tasks import Classifier, build_model, task_of
from fedrelease.models.zero_shot import label_vectors
from fedrelease.server.gather import Seen
from fedrelease.tasks.contract import measured
from fedrelease.update import State

__all__ = ["drawn_state", "initial_state", "server_look"]


def initial_state(base: Base, experiment: Experiment, *, round: int = 0) -> State:
    """Factors as they are drawn, and a head that is zero or starts from the texts of the round's labels.

    For round 0 that is the state of version 0.0.0. It follows from the seed, the labels, the adapter and the base alone.

    Raises:
        ModelError: the base does not go with task and adapter, or cannot be trained privately where the experiment is private.
    """
    model = build_model(base, experiment.model_at(round), seed=experiment.federation.seed)
    return drawn_state(model, base, experiment, round=round)


def drawn_state(classifier: Classifier, base: Base, experiment: Experiment, *, round: int = 0) -> State:
    """The same, from a model of that round that is there already: whatever state it has is drawn anew, in place."""
    if experiment.privacy.unit != "none":  # before version 0.0.0 is made, for whose evaluation sites are charged
        check_private(classifier, base, labels=experiment.model_at(round).labels)
    classifier.draw(experiment.federation.seed)
    if isinstance(classifier, TextClassifier) and classifier.prompt is not None:
        check_room(classifier.encoder, classifier.prompt.tokens, experiment.training.max_length)
    texts = experiment.model_at(round).label_texts
    state = trainable_state(classifier)
    if not texts or not isinstance(classifier, TextClassifier):
        return state
    tokenizer = load_tokenizer(base.folder)
    head = label_vectors(classifier, tokenizer, texts, max_length=experiment.training.max_length)
    return {**state, "head.weight": head}


def server_look(base: Base, experiment: Experiment, holdout: Path) -> Callable[[State, int], Seen]:
    """What a state does on the rows of ``holdout`` whose labels it knows, as a function of the state and its round.

    The model is built once for all rounds with its labels and adapter.
    """
    whole = open_rows(holdout)

    @lru_cache(maxsize=1)
    def built(model: Model) -> Classifier:
        return build_model(base, model, seed=experiment.federation.seed)

    def on_server(state: State, round: int) -> Seen:
        wanted = experiment.model_at(round)
        labels = wanted.labels
        model, rows = built(wanted), of_labels(whole, len(labels))
        load_state(model, state)
        judged, task = judge(model, rows, labels, writes=True), task_of(model)
        answers = task.answers(labels)
        found = tally(judged, classes=len(answers))
        items = outcomes(judged, rows, answers) if experiment.needs_items else None
        metrics = measured(task, found.matrix, found.sums, unit=experiment.data.scale.unit)
        return Seen(metrics={**metrics, "loss": found.loss}, items=items)

    return on_server
