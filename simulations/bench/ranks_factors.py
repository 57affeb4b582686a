"""What the rules for LoRA factors are compared on: random factors, and those that sites trained.

Example::

    drawn_factors((4, 8, 16), width=384, seed=0).updates        # three sites that went their own ways from one parent
    trained_factors((4, 8, 16, 16), rows=200)                   # one real round at four sites, without privacy
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from fedrelease.cache import cache_folder
from fedrelease.errors import EngineError
from fedrelease.experiment_file import load_experiment
from fedrelease.factors import FIRST, SECOND, truncated
from fedrelease.server.spool import Spool
from fedrelease.server.store import Store
from fedrelease.simulations.simulate import simulate
from fedrelease.update import State, Update, forget_open_files

__all__ = ["EQUAL", "MIXED", "Factors", "drawn_factors", "trained_factors"]

MIXED, EQUAL = (4, 8, 16, 16), (16, 16, 16, 16)
SITES = ("amazon", "movie", "nyt", "tweets")
STUDY = "four-sites-none"


@dataclass(frozen=True, kw_only=True)
class Factors:
    """One round's: the parent's, and the deltas of sites of these ranks, in memory."""

    name: str
    ranks: tuple[int, ...]
    parent: State
    updates: tuple[Update, ...]


def drawn_factors(ranks: Sequence[int], *, width: int, seed: int) -> Factors:
    """Normal numbers: a parent of the largest rank, and sites that moved about as far as the parent is from zero."""
    numbers = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=numbers) / math.sqrt(width)

    parent = {"layer" + FIRST: normal(max(ranks), width), "layer" + SECOND: normal(width, max(ranks))}
    deltas = [{name: normal(*part.shape) for name, part in truncated(parent, rank).items()} for rank in ranks]
    updates = tuple(_update(f"site-{place}", delta) for place, delta in enumerate(deltas))
    return Factors(name="random", ranks=tuple(ranks), parent=parent, updates=updates)


def trained_factors(ranks: Sequence[int], *, rows: int) -> Factors:
    """What four sites send after a first round of MiniLM on ``rows`` rows each.

    Raises:
        FedreleaseError: the federation could not run.
    """
    with TemporaryDirectory(prefix="fedrelease-ranks-") as folder:
        store = Path(folder) / "releases"
        _run(ranks, rows=rows, store=store)
        parent = Store.open(store).find("0.0.0")
        spool = Spool(store / "spool" / "0.1.1", parent=parent.digest)
        updates = tuple(_update(one.site, dict(one.tensors)) for one in spool.updates())
        forget_open_files()
        return Factors(name="trained", ranks=tuple(ranks), parent=dict(parent.state()), updates=updates)


def _run(ranks: Sequence[int], *, rows: int, store: Path) -> None:
    text = (files("fedrelease.simulations.studies") / f"{STUDY}.toml").read_text(encoding="utf-8")
    told = ", ".join(f"{site} = {rank}" for site, rank in zip(SITES, ranks, strict=True))
    settings = (
        "federation.keep_updates=true",
        "federation.evaluators=0",
        "phase.0.rounds=1",
        f"data.limit_per_site={rows}",
    )
    adapter = (
        f"model.adapter.rank={max(ranks)}",
        f"model.adapter.site_ranks={{ {told} }}",
        "phase.0.strategy=flexlora",
        "model.precision=float32",
    )
    summary = simulate(
        load_experiment(None, [*settings, *adapter], text=text),
        store=store,
        cache=cache_folder(),
        workers=None,
        watch=lambda event: None,
        say=lambda sentence: None,
    )
    if summary.head != "0.1.1":
        raise EngineError("the round made no release", value=summary.head)


def _update(site: str, tensors: State) -> Update:
    return Update(site=site, tensors=tensors, examples=None, metrics={}, receipt=None, digest="", size_bytes=0)
