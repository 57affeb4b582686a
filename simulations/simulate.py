"""One federation on this machine, from an experiment to released versions; run again, it goes on where it stopped.

Example::

    summary = simulate(experiment, store=Path("releases"), cache=cache_folder(), workers=2, watch=print, say=print)
    summary.head, summary.head_digest

Beside the store lies ``<store>.sites``: each simulated site's own folder with its privacy ledger, which no deletion of the store
touches, and the engine's log.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid

from fedrelease.catalog import CATALOG
from fedrelease.client.schedule import ABREAST
from fedrelease.data.sites import Prepared, prepare_sites, training_rows
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import to_document
from fedrelease.fetch import fetch
from fedrelease.models.bases import Base, open_base
from fedrelease.models.precision import chosen_precision
from fedrelease.population import Population
from fedrelease.server.app import Initial, check_same_experiment, server_app
from fedrelease.server.blobs import disk_errors
from fedrelease.server.events import Watcher
from fedrelease.server.flower import FIRST_NODE
from fedrelease.server.going_on import rounds_left
from fedrelease.server.lock import hold
from fedrelease.server.rounds import sweep_finished
from fedrelease.server.signing import own_signer
from fedrelease.server.store import Store
from fedrelease.server.tracking.choice import Tracking
from fedrelease.server.tracking.following import followed
from fedrelease.simulations.attack_grid import with_hostile
from fedrelease.simulations.attacks import hostile_sites
from fedrelease.simulations.engine import Engine
from fedrelease.simulations.grid import LocalGrid
from fedrelease.simulations.leftovers import sweep_handovers
from fedrelease.simulations.lending import Lender, own_engine
from fedrelease.simulations.nodes import Nodes
from fedrelease.simulations.poisoned_rows import poison_sites
from fedrelease.simulations.profiles import Clock
from fedrelease.simulations.ray_cluster import Ray, check_ray
from fedrelease.simulations.ray_grid import ray_sites
from fedrelease.strategies import check_adapter, check_strategy, check_transport

__all__ = [
    "GridOf",
    "Ray",
    "Summary",
    "federate",
    "fetched_base",
    "prepared_sites",
    "simulate",
    "sites_folder",
    "summary_of",
]

GridOf: TypeAlias = Callable[[Nodes], AbstractContextManager[Grid]]
"""What runs the sites, as a function from them to their Grid."""
NOT_TRACKED = Tracking()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a simulation ended with. ``released`` counts the versions of the store, the base included."""

    name: str
    store: Path
    head: str
    head_digest: str
    released: int
    held: int
    seconds: float
    epsilon: float | None
    resumed: bool


def sites_folder(store: Path) -> Path:
    """Where the simulated sites of a store keep what is theirs."""
    if store.name in ("", ".."):  # such as "."
        store = store.resolve()
    return store.with_name(f"{store.name}.sites")


def simulate(
    experiment: Experiment,
    *,
    store: Path,
    cache: Path,
    workers: int | None,
    watch: Watcher,
    say: Callable[[str], None],
    ray: Ray | None = None,
    lender: Lender | None = None,
    tracking: Tracking = NOT_TRACKED,
) -> Summary:
    """Run the plan of rounds to its end, from the store's head on.

    Args:
        store: the folder of releases; made when missing.
        cache: of bases and prepared data.
        workers: processes; ``None`` for one a core, or for what a cluster has room for.
        watch: told what happens. say: told in sentences what takes a while before the first round.
        ray: run the sites in Ray actors; ``None`` for the one-machine engine. The releases are the same.
        lender: has the engine that several runs use one after the other, and its number of workers; ``None`` starts one for
            this run alone. The releases are the same.
        tracking: which trackers are told about the releases; they change nothing of them.

    Raises:
        FedreleaseError: whatever a user can mend; everything that was released or accepted before it stays.
    """
    begun = time.monotonic()
    experiment = replace(experiment, model=chosen_precision(experiment.model, cache))
    for phase, adapter in zip(experiment.phases, experiment.phase_adapters, strict=True):
        check_strategy(phase.strategy, experiment.privacy)
        check_adapter(phase.strategy, adapter)
        check_transport(phase.strategy, experiment.transport)
    if ray is not None:
        _check_fits_ray(experiment)
        check_ray()  # before anything is made or fetched
    opened, home = Store.create_or_open(store, signer=own_signer()), sites_folder(store)
    with disk_errors(home):
        home.mkdir(parents=True, exist_ok=True)
    with hold(home / ".lock", of=store), _one_thread():  # a second run must not touch what the first one's sites are at
        with opened.lock():
            check_same_experiment(opened, experiment)
            if complete := _is_complete(opened, experiment):  # a run may have been killed after its last release
                sweep_finished(opened, experiment)
                sweep_handovers(home)
        resumed = opened.head() is not None
        with followed(opened, experiment, tracking, watch=watch) as told:
            if complete:
                say(f"nothing to do: {store} holds every release of this experiment")
            else:
                _run(experiment, store=store, cache=cache, workers=workers, watch=told, say=say, ray=ray, lender=lender)
    return summary_of(experiment, opened, seconds=time.monotonic() - begun, resumed=resumed)


def _check_fits_ray(experiment: Experiment) -> None:
    """Refuse what the one-machine engine does by itself.

    Raises:
        ExperimentError: sites are virtual or hostile, or time is virtual.
    """
    for what, found in (
        ("virtual sites", experiment.data.partition.by == "virtual"),
        ("virtual time", experiment.virtual_time.examples_per_s is not None),
        ("hostile sites", experiment.attack.kind != "none"),
    ):
        if found:
            raise ExperimentError(
                "Ray does not run this experiment",
                value=what,
                rule="virtual sites, hostile sites and virtual time are the one-machine engine's",
                hint="leave --engine out",
            )


@contextmanager
def _one_thread() -> Iterator[None]:
    """The server's tensors are small and the processor is the sites': threads that wait for work would take it from them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_complete(store: Store, experiment: Experiment) -> bool:
    return store.head() is not None and not rounds_left(store, experiment)


def _run(
    experiment: Experiment,
    *,
    store: Path,
    cache: Path,
    workers: int | None,
    watch: Watcher,
    say: Callable[[str], None],
    ray: Ray | None,
    lender: Lender | None,
) -> None:
    opened = partial(fetched_base, experiment, cache, say)
    base = opened() if lender is None else lender.base(experiment, opened)
    home = sites_folder(store)
    with _engine(experiment, base, home, workers, ray, lender) as grid_of:
        prepared = prepared_sites(experiment, base, cache, say)
        federate(experiment, store=store, base=base, prepared=prepared, grid_of=grid_of, watch=watch)


def federate(
    experiment: Experiment, *, store: Path, base: Base, prepared: Prepared, grid_of: GridOf, watch: Watcher
) -> None:
    """The rounds that the store lacks, on whatever runs the sites."""
    home = sites_folder(store)
    context = Context(
        run_id=1,
        node_id=1,
        node_config={},
        state=RecordDict(),
        run_config={
            "experiment": json.dumps(to_document(experiment)),
            "store": str(store),
            "base": str(base.folder),
            **({"server-holdout": str(prepared.server_holdout)} if prepared.server_holdout else {}),
            **({"population": len(prepared.sites)} if isinstance(prepared.sites, Population) else {}),
        },
    )
    hostile = hostile_sites(experiment, prepared.sites)
    poisoned = poison_sites(experiment, prepared, base, hostile=hostile, home=home)
    nodes = Nodes(
        prepared.sites,
        partial(_node, prepared, home=home, base=base, poisoned=poisoned),
        partial(training_rows, prepared),
    )
    by_node = {
        FIRST_NODE + place: site for place, site in enumerate(prepared.sites if hostile else ()) if site in hostile
    }
    with grid_of(nodes) as grid:
        clock = grid.clock if isinstance(grid, LocalGrid) else None
        begin = server_app(watch, initial=_initial(experiment, base, grid), seconds_of=clock.seconds if clock else None)
        begin(with_hostile(grid, experiment, by_node), context)


def _initial(experiment: Experiment, base: Base, grid: Grid) -> Initial | None:
    """Who makes the first state: a worker, which has the model; with weights of a pretrained base in it, it is loaded anew."""
    trained = experiment.model.adapter.trains_base and not base.is_drawn
    return grid.initial_state if isinstance(grid, LocalGrid) and not trained else None


@contextmanager
def _engine(
    experiment: Experiment, base: Base, home: Path, workers: int | None, ray: Ray | None, lender: Lender | None
) -> Iterator[GridOf]:
    """What runs the sites. Workers load while the caller prepares the data."""
    if ray is not None:
        yield partial(_ray_sites, ray, workers, experiment, home)
        return
    with own_engine(experiment, base, home, workers) if lender is None else lender.lend(experiment, base) as engine:
        yield partial(_local_sites, engine, experiment, base, home)


@contextmanager
def _local_sites(engine: Engine, experiment: Experiment, base: Base, home: Path, nodes: Nodes) -> Iterator[Grid]:
    engine.wait_until_ready()
    timed = experiment.virtual_time.examples_per_s is not None
    clock = Clock(experiment, rows_of=nodes.rows_of, book=home / "virtual-time.csv") if timed else None
    abreast = ABREAST if base.architecture is not None else 1  # others go one by one wherever they are
    grid = LocalGrid(engine, nodes=nodes, abreast=abreast, clock=clock)
    try:
        yield grid
    finally:
        grid.close()


@contextmanager
def _ray_sites(ray: Ray, workers: int | None, experiment: Experiment, home: Path, nodes: Nodes) -> Iterator[Grid]:
    with ray_sites(ray, list(nodes.values()), workers=workers, experiment=experiment, home=home) as grid:
        yield grid


def fetched_base(experiment: Experiment, cache: Path, say: Callable[[str], None]) -> Base:
    """The experiment's base, which is fetched first where it is a built-in one that is missing; its data too."""
    ref = experiment.model.base
    for alias in (ref, experiment.data.source):
        if alias in CATALOG:
            fetch(alias, cache=cache, progress=_saying(say))
    return open_base(ref, cache=cache)


def _saying(say: Callable[[str], None]) -> Callable[[object], None]:
    """One sentence for each new step of a fetch."""
    told: set[tuple[object, object]] = set()

    def listen(event: object) -> None:
        step = (getattr(event, "alias", None), getattr(event, "step", None))
        if step not in told and None not in step:
            told.add(step)
            say(f"fetch {step[0]}: {step[1]}")

    return listen


def prepared_sites(experiment: Experiment, base: Base, cache: Path, say: Callable[[str], None]) -> Prepared:
    """The sites' rows on disk, which are dealt out first where they are missing; ``say`` is told what is odd about them."""
    prepared = prepare_sites(
        experiment, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=cache, progress=None
    )
    for warning in prepared.warnings:
        say(f"note: {warning}")
    return prepared


def _node(prepared: Prepared, site: str, home: Path, base: Base, poisoned: Mapping[str, Path]) -> dict[str, str]:
    """A simulated site's node configuration. Its noise is seeded: a simulation repeats bit for bit."""
    return {
        "site": site,
        "data": str(poisoned.get(site, prepared.folder / site).absolute()),
        "home": str((home / site).absolute()),
        "base": str(base.folder.absolute()),
        "noise": "seeded",
    }


def summary_of(experiment: Experiment, store: Store, *, seconds: float, resumed: bool) -> Summary:
    """What a store holds now."""
    releases = store.releases()
    head = releases[-1]
    return Summary(
        name=experiment.federation.name,
        store=store.folder,
        head=head.version,
        head_digest=head.digest,
        released=sum(release.manifest.verdict == "released" for release in releases),
        held=sum(release.manifest.verdict == "held" for release in releases),
        seconds=round(seconds, 3),
        epsilon=head.manifest.privacy.epsilon_total if head.manifest.privacy else None,
        resumed=resumed,
    )
