"""The one adapter between a federation's rounds and Flower's ServerApp.

Example::

    server_app(watch)(grid, context)        # context.run_config: experiment (JSON), store, base (folder)

``population`` in it says that a simulation's nodes are numbered, and how many there are.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrelease.data.row_files import open_rows
from fedrelease.data.tokens import load_tokenizer
from fedrelease.errors import StoreError
from fedrelease.experiment import Experiment, Federation
from fedrelease.experiment_document import experiment_digest, from_document
from fedrelease.experiment_file import differences, load_experiment, to_toml
from fedrelease.files import write_durably
from fedrelease.models.bases import Base, open_base
from fedrelease.models.classifier import TextClassifier, load_state, trainable_state
from fedrelease.models.evaluation import look
from fedrelease.models.metrics import scores
from fedrelease.models.tasks import Classifier, build_model
from fedrelease.models.zero_shot import label_vectors
from fedrelease.server.events import Event, Watcher
from fedrelease.server.flower import FlowerSites
from fedrelease.server.gather import Setting
from fedrelease.server.rounds import run_rounds
from fedrelease.server.store import Store
from fedrelease.update import State

__all__ = ["app", "check_same_experiment", "initial_state", "server_app"]


def server_app(watch: Watcher) -> ServerApp:
    """A ServerApp that runs the plan of rounds in its run configuration and tells ``watch`` about it."""
    application = ServerApp()

    @application.main()
    def main(grid: Grid, context: Context) -> None:
        settings = context.run_config
        experiment = from_document(json.loads(str(settings["experiment"])))
        folder = Path(str(settings["base"]))
        holdout = settings.get("server-holdout")
        store = Store.create_or_open(Path(str(settings["store"])))
        with store.lock():
            check_same_experiment(store, experiment)
            base = open_base(str(folder), cache=folder)
            run_rounds(
                Setting(
                    experiment=experiment,
                    store=store,
                    sites=FlowerSites(
                        grid,
                        deadline_s=experiment.federation.deadline_s,
                        population=int(str(settings["population"])) if "population" in settings else None,
                    ),
                    base=base,
                    initial=lambda: initial_state(base, experiment),
                    look=_server_look(base, experiment, Path(str(holdout)) if holdout else None),
                    watch=watch,
                )
            )

    return application


def _ignore(event: Event) -> None:
    """Nobody watches a deployed ServerApp but its log."""


app = server_app(_ignore)


def _classifier(base: Base, experiment: Experiment) -> Classifier:
    return build_model(base, experiment.model, seed=experiment.federation.seed)


def initial_state(base: Base, experiment: Experiment) -> State:
    """The state of version 0.0.0: factors as they are drawn, and a head that is zero or starts from the labels' texts."""
    classifier, texts = _classifier(base, experiment), experiment.model.label_texts
    state = trainable_state(classifier)
    if not texts or not isinstance(classifier, TextClassifier):
        return state
    tokenizer = load_tokenizer(base.folder)
    head = label_vectors(classifier, tokenizer, texts, max_length=experiment.training.max_length)
    return {**state, "head.weight": head}


def _server_look(base: Base, experiment: Experiment, holdout: Path | None) -> Callable[[State], Mapping[str, float]]:
    if holdout is None:
        return lambda state: {}
    model, rows = _classifier(base, experiment), open_rows(holdout)

    def on_server(state: State) -> Mapping[str, float]:
        load_state(model, state)
        matrix, loss = look(model, rows, classes=len(experiment.model.labels))
        return {**scores(matrix), "loss": loss}

    return on_server


def check_same_experiment(store: Store, experiment: Experiment) -> None:
    """Save the resolved experiment with a store that has no release yet; refuse to go on with another under other rules.

    Raises:
        StoreError: the store was made by another experiment; the text lists every key that differs.
    """
    path = store.folder / "experiment.toml"
    if store.head() is None or not path.exists():
        write_durably(path, to_toml(experiment).encode())
        return
    saved = load_experiment(path)
    if experiment_digest(saved) != experiment_digest(experiment):
        raise StoreError(
            f"{store.folder} holds the releases of another experiment",
            value="; ".join(differences(replace(saved, federation=_here(saved, experiment)), experiment)),
            rule="one store, one experiment: a resumed run goes on under the rules it began with",
            hint=f"choose another folder with --store, or run {path} again",
        )


def _here(saved: Experiment, experiment: Experiment) -> Federation:
    """A store may be moved: where it lies is no difference."""
    return replace(saved.federation, store=experiment.federation.store)
