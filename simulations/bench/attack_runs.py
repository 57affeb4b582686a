"""Every rule under every attack with every seed on one task: federations one after the other, on the same workers.

Example::

    grid = Grid(experiment=TASKS["digits"], rules=("fedavg", "median"), kinds=("none", "sign-flip"), seeds=(7, 8, 9))
    cells = run_grid(grid, folder=Path("bench-out"), watch=print)       # told of each cell; type it again to go on
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from fedrelease.attack import Attack
from fedrelease.cache import cache_folder
from fedrelease.data.sites import prepare_sites
from fedrelease.errors import EngineError, StoreError
from fedrelease.experiment import Experiment, Federation, StrategyChoice
from fedrelease.experiment_document import experiment_digest
from fedrelease.files import Json, append_durably, read_lines
from fedrelease.models.bases import open_base
from fedrelease.server.lock import hold
from fedrelease.server.store import Store
from fedrelease.simulations.backdoor import backdoor_success
from fedrelease.simulations.lending import Lender
from fedrelease.simulations.simulate import simulate

__all__ = ["CELLS", "Cell", "Ended", "Grid", "run_grid"]

CELLS = "attacks.jsonl"
"""In the folder of results: what all cells share, then a line for each cell, in the order in which they ended."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One federation: the last release's accuracy on the server's hold-out, and how well the trigger worked there.

    Attributes:
        seed: of sites, rows, first weights, and of who is hostile.
        backdoor: the share of the rows of other labels that get the target's with the trigger in them, whatever the attack.
        seconds: that it took.
    """

    rule: str
    attack: str
    seed: int
    accuracy: float
    backdoor: float
    seconds: float

    def to_json(self) -> dict[str, Json]:
        """A line of the file, and of the document of ``--json``."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Which cells there are. ``experiment``: what all share; rule, attack and seed are set for each."""

    experiment: Experiment
    rules: tuple[str, ...]
    kinds: tuple[str, ...]
    seeds: tuple[int, ...]
    share: float = 0.2

    def wanted(self) -> Iterator[tuple[int, str, str]]:
        """Seed, attack and rule: the whole table of one seed first, so that a run that is cut short is a smaller table."""
        return product(self.seeds, self.kinds, self.rules)

    def under(self, seed: int, kind: str, rule: str) -> Experiment:
        """The experiment of one cell."""
        phases = tuple(replace(phase, strategy=StrategyChoice(name=rule)) for phase in self.experiment.phases)
        attack = Attack() if kind == "none" else Attack(kind=kind, share=self.share)
        return replace(_seeded(self.experiment, seed), attack=attack, phases=phases)

    def shared(self) -> dict[str, Json]:
        """What makes cells those of one table; rules, attacks and seeds may be added to it."""
        data = self.experiment.data
        return {
            "data": data.source,
            "partition": data.partition.by,
            "alpha": data.partition.alpha if data.partition.by == "dirichlet" else None,
            "sites": data.partition.sites,
            "share": self.share,
            "rounds": self.experiment.rounds,
            "experiment": experiment_digest(_seeded(self.experiment, Federation().seed)),
        }


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A cell is there; ``left``: seconds for the rest, as long as those before took; ``None`` where it was there already."""

    cell: Cell
    number: int
    total: int
    left: float | None


Watch: TypeAlias = Callable[[Ended], None]


def run_grid(grid: Grid, *, folder: Path, watch: Watch) -> tuple[Cell, ...]:
    """The cells of a grid, in its order: those that ``folder`` keeps are read, the others are run and kept.

    Raises:
        StoreBusy: another process fills the folder.
        StoreError: the folder keeps cells of another task, of other sites, rounds or of another share. Nothing was run.
        FedreleaseError: a knob is out of bounds, data or base are not there, or a federation fails. Cells that ended stay.
    """
    wanted = list(grid.wanted())
    for place in wanted:
        grid.under(*place)
    folder.mkdir(parents=True, exist_ok=True)
    with _workplace(folder) as work, Lender(home=work / "engine", workers=None) as lender:
        kept = _kept(grid, folder)
        missing = [place for place in wanted if place not in kept]
        if missing and not (folder / CELLS).exists():
            append_durably(folder / CELLS, json.dumps(grid.shared()).encode())
        begun, done = time.monotonic(), 0
        for number, place in enumerate(wanted, 1):
            left = None
            if place not in kept:
                kept[place] = _run(grid.under(*place), work, lender)
                append_durably(folder / CELLS, json.dumps(kept[place].to_json()).encode())
                done += 1
                left = (time.monotonic() - begun) / done * (len(missing) - done)
            watch(Ended(cell=kept[place], number=number, total=len(wanted), left=left))
    return tuple(kept[place] for place in wanted)


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A folder for federations that are under way, this process's alone; what a killed one left goes first."""
    with hold(folder / ".lock", of=folder):
        for leftover in folder.glob("federations-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with TemporaryDirectory(prefix="federations-", dir=folder) as work:
            yield Path(work)


def _kept(grid: Grid, folder: Path) -> dict[tuple[int, str, str], Cell]:
    """The cells of earlier calls, by seed, attack and rule."""
    lines = [json.loads(line) for line in read_lines(folder / CELLS)]
    now = grid.shared()
    if lines and lines[0] != now:
        differs = [f"{key}: {lines[0].get(key)} -> {value}" for key, value in now.items() if lines[0].get(key) != value]
        raise StoreError(
            f"{folder / CELLS} keeps cells of another table",
            value="; ".join(differs),
            rule="cells of one table share task, sites, rounds and share; rules, attacks and seeds may be added",
            hint="name another folder with --out",
        )
    cells = [Cell(**line) for line in lines[1:]]
    return {(cell.seed, cell.attack, cell.rule): cell for cell in cells}


def _seeded(experiment: Experiment, seed: int) -> Experiment:
    return replace(experiment, federation=replace(experiment.federation, seed=seed))


def _run(experiment: Experiment, work: Path, lender: Lender) -> Cell:
    """One federation in a store that nobody keeps."""
    begun, cache = time.monotonic(), cache_folder()
    rule, attack, seed = experiment.phases[0].strategy.name, experiment.attack.kind, experiment.federation.seed
    with TemporaryDirectory(dir=work) as folder:
        store = Path(folder) / "store"
        simulate(
            experiment,
            store=store,
            cache=cache,
            workers=None,
            watch=lambda event: None,
            say=lambda text: None,
            lender=lender,
        )
        head = Store.open(store).head()
        base = lender.base(experiment, lambda: open_base(experiment.model.base, cache=cache))
        prepared = prepare_sites(
            experiment, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=cache
        )
        if head is None or prepared.server_holdout is None:
            raise EngineError("the federation ended without a release that the server could look at", value=str(store))
        return Cell(
            rule=rule,
            attack=attack,
            seed=seed,
            accuracy=head.manifest.metrics.server["accuracy"],
            backdoor=backdoor_success(head.state(), experiment, base, prepared.server_holdout),
            seconds=round(time.monotonic() - begun, 3),
        )
