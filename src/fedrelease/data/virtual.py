"""Virtual sites: what a site has follows from its name, so that a federation of a million sites has no million folders.

Example::

    pool = open_pool(folder)                                             # None: sites have folders
    train, holdout = draw_rows(pool, "site-0000012", by_label(train.labels, 10), by_label(holdout.labels, 10))  # row numbers

Each site has its own shares of the labels, drawn from a Dirichlet around the shares in the pool, and rows drawn with replacement.
Source: Hsu et al. (2019), https://arxiv.org/abs/1909.06335, section 3.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrelease.errors import DataError
from fedrelease.experiment import Data
from fedrelease.files import digest_bytes

__all__ = ["POPULATION", "ByLabel", "Pool", "by_label", "draw_rows", "open_pool", "write_pool"]

POPULATION = "population.json"


@dataclass(frozen=True, kw_only=True)
class ByLabel:
    """Row numbers sorted by label, int64 ``[rows]``; how many rows each label has and where they begin, int64 ``[labels]``."""

    rows: NDArray[np.int64]
    counts: NDArray[np.int64]
    starts: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How virtual sites draw: ``rows`` to train on, ``holdout`` to look at; ``alpha``: small = few labels a site."""

    seed: int
    rows: int
    holdout: int
    alpha: float


def write_pool(path: Path, data: Data, *, seed: int) -> None:
    """Write down how sites of this experiment draw; hold-outs stand to training rows as ``data.holdout`` says."""
    rows = data.partition.rows
    holdout = max(1, round(rows * data.holdout / (1 - data.holdout)))
    facts = {"seed": seed, "rows": rows, "alpha": data.partition.alpha}
    path.write_text(json.dumps({**facts, "holdout": min(holdout, data.holdout_limit or holdout)}), encoding="utf-8")


@lru_cache(maxsize=16)
def open_pool(folder: Path) -> Pool | None:
    """How the sites of a prepared folder draw, read once in a process; ``None`` when they have folders of their own.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / POPULATION
    try:
        return Pool(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        hint = f"delete {folder} and run again: it will be prepared anew"
        raise DataError(f"{path} cannot be read: {error}", value=str(path), hint=hint) from error


def by_label(labels: Tensor, labels_in_all: int) -> ByLabel:
    """The row numbers of each label."""
    values = labels.numpy()
    counts = np.bincount(values, minlength=labels_in_all)
    return ByLabel(rows=np.argsort(values, kind="stable"), counts=counts, starts=np.cumsum(counts) - counts)


def draw_rows(pool: Pool, site: str, train: ByLabel, holdout: ByLabel) -> tuple[Tensor, Tensor]:
    """The rows of ``site``, int64, among training rows by label and among hold-out rows by label.

    The same name draws the same rows, in every process and on every machine; no other site's rows change them.
    """
    generator = np.random.default_rng(int(digest_bytes(f"{pool.seed}\nvirtual {site}".encode())[:16], 16))
    shares = _shares(generator, train.counts / train.counts.sum(), pool.alpha)
    return _draw(generator, shares, train, pool.rows), _draw(generator, shares, holdout, pool.holdout)


def _shares(generator: np.random.Generator, prior: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Shares of the labels, which add up to 1; labels that the pool does not have get none."""
    present = np.flatnonzero(prior)
    drawn = generator.dirichlet(alpha * len(present) * prior[present])
    if (
        not np.isfinite(drawn).all() or drawn.sum() == 0
    ):  # alpha is so small that floats cannot hold the shares: one label
        drawn = np.eye(len(present))[generator.choice(len(present), p=prior[present])]
    shares = np.zeros(len(prior))
    shares[present] = drawn / drawn.sum()
    return shares


def _draw(generator: np.random.Generator, shares: NDArray[np.float64], pool: ByLabel, count: int) -> Tensor:
    """A label by the shares, among those that have rows, then one of its rows; ``count`` times, each on its own."""
    usable = np.where(pool.counts > 0, shares, 0.0)
    up_to = np.cumsum(usable if usable.any() else pool.counts > 0)
    drawn, within = generator.random((2, count))
    labels = np.searchsorted(up_to / up_to[-1], drawn, side="right")
    places = pool.starts[labels] + (within * pool.counts[labels]).astype(np.int64)
    return torch.from_numpy(pool.rows[places])
