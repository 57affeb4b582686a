"""The one adapter between a federation's rounds and Flower's ServerApp.

Example::

    server_app(watch)(grid, context)        # context.run_config: experiment (JSON), store, base (folder)

``population`` in it says that a simulation's nodes are numbered, and how many there are. ``settings`` names a file with all
that instead: what a deployed server wrote down for its run.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrelease.deployment.bundle import SETTINGS
from fedrelease.errors import StoreError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import experiment_digest, from_document
from fedrelease.experiment_file import differences, load_experiment, to_toml
from fedrelease.files import write_durably
from fedrelease.models.bases import Base, open_base
from fedrelease.server.deployment.application import deployed
from fedrelease.server.events import Event, Watcher
from fedrelease.server.flower import POLL_S, Connected, FlowerSites
from fedrelease.server.gather import Seen, Setting
from fedrelease.server.rounds import run_rounds
from fedrelease.server.signing import own_signer
from fedrelease.server.store import Store
from fedrelease.server.tracking.choice import Tracking
from fedrelease.server.tracking.following import followed
from fedrelease.update import State

__all__ = ["Initial", "SecondsOf", "app", "check_same_experiment", "server_app"]

Initial: TypeAlias = Callable[[Base, Experiment, int], State]
"""What makes the state that training starts from with the labels of a round; round 0 is version 0.0.0."""

SecondsOf: TypeAlias = Callable[[str, int], float]


def server_app(watch: Watcher, *, initial: Initial | None = None, seconds_of: SecondsOf | None = None) -> ServerApp:
    """A ServerApp that runs the plan of rounds in its run configuration and tells ``watch`` about it.

    ``initial`` makes first states elsewhere; ``None`` makes it here, and loads the base for it. ``seconds_of`` says how long
    a site takes with a state of so many bytes, in a simulation on virtual time.
    """
    application = ServerApp()

    @application.main()
    def main(grid: Grid, context: Context) -> None:
        if context.run_config.get(SETTINGS):
            with deployed(Path(str(context.run_config[SETTINGS])), run=context.run_id) as deployment:
                connected, settings = deployment.connected(grid), deployment.settings
                run(grid, settings, deployment.watch, connected, deployment.tracking)
        else:
            run(grid, context.run_config, watch, None, Tracking())

    def run(
        grid: Grid,
        settings: Mapping[str, object],
        watch: Watcher,
        connected: Connected | None,
        tracking: Tracking,
    ) -> None:
        experiment = from_document(json.loads(str(settings["experiment"])))
        folder = Path(str(settings["base"]))
        holdout = settings.get("server-holdout")
        store = Store.create_or_open(Path(str(settings["store"])), signer=own_signer())
        with followed(store, experiment, tracking, watch=watch) as told, store.lock():
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
                        connected=connected,
                        poll_s=float(str(settings.get("poll_s", POLL_S))),
                    ),
                    base=base,
                    initial=partial(initial or _initial_state, base, experiment),
                    look=_server_look(base, experiment, Path(str(holdout)) if holdout else None),
                    watch=told,
                    seconds_of=seconds_of,
                )
            )

    return application


def _ignore(event: Event) -> None:
    """Nobody watches a deployed ServerApp but its log."""


app = server_app(_ignore)


def _initial_state(base: Base, experiment: Experiment, round: int) -> State:
    from fedrelease.server.local_model import initial_state

    return initial_state(base, experiment, round=round)


def _server_look(base: Base, experiment: Experiment, holdout: Path | None) -> Callable[[State, int], Seen]:
    if holdout is None:
        return lambda state, round: Seen()
    from fedrelease.server.local_model import server_look

    return server_look(base, experiment, holdout)


def check_same_experiment(store: Store, experiment: Experiment) -> None:
    """Save the resolved experiment with a store that has no release yet; refuse to go on with another under other rules.

    Another ``[retention]`` is no other experiment: it takes the place of the one that was saved.

    Raises:
        StoreError: the store was made by another experiment; the text lists every key that differs.
    """
    path = store.folder / "experiment.toml"
    if store.head() is None or not path.exists():
        write_durably(path, to_toml(experiment).encode())
        return
    saved = load_experiment(path)
    if experiment_digest(saved) == experiment_digest(experiment):
        if saved.retention != experiment.retention:  # housekeeping, which the newest run decides
            write_durably(path, to_toml(replace(saved, retention=experiment.retention)).encode())
    else:
        raise StoreError(
            f"{store.folder} holds the releases of another experiment",
            value="; ".join(differences(_here(saved, experiment), experiment)),
            rule="one store, one experiment: a resumed run goes on under the rules it began with",
            hint=f"choose another folder with --store, or run {path} again",
        )


def _here(saved: Experiment, experiment: Experiment) -> Experiment:
    """A store may be moved, and tidied in another way: neither is a difference."""
    federation = replace(saved.federation, store=experiment.federation.store)
    return replace(saved, federation=federation, retention=experiment.retention)
