"""Every rule under every attack on one task: federations one after the other, on the same sites and the same workers.

Example::

    points = run_attacks(TASKS["digits"], rules=["median"], kinds=["none", "sign-flip"], folder=Path("out"), tell=print)
    kept(points, "median", "sign-flip")         # the share of the rule's own clean accuracy that is left
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from flwr.serverapp import Grid

from fedrelease.attack import KINDS, Attack
from fedrelease.cache import cache_folder
from fedrelease.catalog import CATALOG
from fedrelease.client.schedule import ABREAST
from fedrelease.data.sites import Prepared, prepare_sites
from fedrelease.errors import EngineError
from fedrelease.experiment import (
    Adapter,
    Data,
    Experiment,
    Federation,
    Model,
    Partition,
    Phase,
    Privacy,
    StrategyChoice,
    Training,
)
from fedrelease.fetch import fetch
from fedrelease.files import Json
from fedrelease.models.bases import Base, open_base
from fedrelease.server.store import Store
from fedrelease.simulations.backdoor import backdoor_success
from fedrelease.simulations.engine import Engine, default_workers
from fedrelease.simulations.grid import LocalGrid
from fedrelease.simulations.nodes import Nodes
from fedrelease.simulations.simulate import federate

__all__ = ["ATTACKS", "RULES", "TASKS", "Point", "kept", "run_attacks"]

RULES = (
    "fedavg",
    "median",
    "trimmed-mean",
    "krum",
    "multi-krum",
    "bulyan",
    "geometric-median",
    "centered-clip",
    "norm-bound",
    "foolsgold",
)
ATTACKS = ("none", *sorted(kind for kind in KINDS if kind != "none"))
_QUIET = Federation(name="attacks", evaluators=0, max_update_norm=1e9)
"""No site looks at a candidate, and no update is refused for its length: rules have to bear it by themselves."""

TASKS: Mapping[str, Experiment] = {
    "digits": Experiment(
        federation=_QUIET,
        model=Model(
            base="mlp:784-64",
            task="image-classification",
            labels=tuple("0123456789"),
            adapter=Adapter(kind="full"),
        ),
        data=Data(source="digits", server_holdout=0.2, partition=Partition(by="iid", sites=15)),
        training=Training(batch_size=10, lr=0.1, optimizer="sgd", schedule="linear"),
        privacy=Privacy(unit="none"),
        phases=(Phase(rounds=6),),
    ),
    "sms-spam": Experiment(
        federation=_QUIET,
        model=Model(base="minilm", labels=("ham", "spam")),
        data=Data(source="sms-spam", server_holdout=0.1, limit_per_site=100, partition=Partition(by="iid", sites=15)),
        training=Training(batch_size=16, lr=3e-3, head_lr=1e-2, max_length=64),
        privacy=Privacy(unit="none"),
        phases=(Phase(rounds=3),),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One federation: the last release's accuracy on the server's hold-out, and how well the trigger worked there."""

    rule: str
    attack: str
    accuracy: float
    backdoor: float

    def to_json(self) -> dict[str, Json]:
        """For the document of ``--json``."""
        return asdict(self)


def kept(points: Sequence[Point], rule: str, attack: str) -> float:
    """The rule's accuracy under an attack as a share of its own without any."""
    found = {point.attack: point.accuracy for point in points if point.rule == rule}
    return found[attack] / found["none"]


def run_attacks(
    experiment: Experiment,
    *,
    rules: Sequence[str],
    kinds: Sequence[str],
    share: float = 0.2,
    folder: Path,
    tell: Callable[[str], None],
) -> list[Point]:
    """One federation for each rule and kind of attack; ``tell`` hears of each as it ends.

    Raises:
        FedreleaseError: the share is out of bounds, the data or the base is not there, or a federation fails.
    """
    attacks = [Attack() if kind == "none" else Attack(kind=kind, share=share) for kind in kinds]
    folder.mkdir(parents=True, exist_ok=True)
    points: list[Point] = []
    base = _base(experiment, cache_folder())
    prepared = prepare_sites(
        experiment, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=cache_folder()
    )
    with TemporaryDirectory(dir=folder) as work, _workers(experiment, base, Path(work)) as engine:
        for attack in attacks:
            for rule in rules:
                phase = replace(experiment.phases[0], strategy=StrategyChoice(name=rule))
                under = replace(experiment, attack=attack, phases=(phase,))
                points.append(_run(under, base, prepared, engine, Path(work) / f"{attack.kind}-{rule}"))
                tell(f"{attack.kind}, {rule}: accuracy {points[-1].accuracy:.3f}, backdoor {points[-1].backdoor:.3f}")
    return points


def _base(experiment: Experiment, cache: Path) -> Base:
    for alias in (experiment.model.base, experiment.data.source):
        if alias in CATALOG:
            fetch(alias, cache=cache)
    return open_base(experiment.model.base, cache=cache)


@contextmanager
def _workers(experiment: Experiment, base: Base, home: Path) -> Iterator[Engine]:
    """Workers that serve all federations, since these share the model."""
    count = default_workers(experiment.data.partition.sites)
    with Engine(base=base.folder, experiment=experiment, workers=count, home=home) as engine:
        engine.wait_until_ready()
        yield engine


def _run(experiment: Experiment, base: Base, prepared: Prepared, engine: Engine, store: Path) -> Point:
    @contextmanager
    def grid_of(nodes: Nodes) -> Iterator[Grid]:
        yield LocalGrid(engine, nodes=nodes, abreast=ABREAST if experiment.model.task == "image-classification" else 1)

    federate(experiment, store=store, base=base, prepared=prepared, grid_of=grid_of, watch=lambda event: None)
    head = Store.open(store).head()
    if head is None or prepared.server_holdout is None:
        raise EngineError("the federation ended without a release that the server could look at", value=str(store))
    return Point(
        rule=experiment.phases[0].strategy.name,
        attack=experiment.attack.kind,
        accuracy=head.manifest.metrics.server["accuracy"],
        backdoor=backdoor_success(head.state(), experiment, base, prepared.server_holdout),
    )
