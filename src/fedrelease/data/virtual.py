"""Virtual sites: what a site has follows from its name, so that a federation of a million sites has no million folders.

Example::

    pool = open_pool(folder)                                             # None: sites have folders
    train, holdout = draw_rows(pool, "site-0000012", by_label(train.labels), by_label(holdout.labels))      # row numbers

Each site has its own shares of the labels, drawn from a Dirichlet around the shares in the pool, and rows drawn with replacement.
Source: Hsu et al. (2019), https://arxiv.org/abs/1909.06335, section 3.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrelease.errors import DataError
from fedrelease.experiment import Data
from fedrelease.files import digest_bytes

__all__ = ["POPULATION", "ByLabel", "Pool", "by_label", "draw_rows", "open_pool", "write_pool"]

ByLabel: TypeAlias = Mapping[int, NDArray[np.int64]]

POPULATION = "population.json"


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


def by_label(labels: Tensor) -> ByLabel:
    """The row numbers of each label that there is."""
    values = labels.numpy()
    return {int(label): np.flatnonzero(values == label) for label in np.unique(values)}


def draw_rows(pool: Pool, site: str, train: ByLabel, holdout: ByLabel) -> tuple[Tensor, Tensor]:
    """The rows of ``site``, int64, among training rows by label and among hold-out rows by label.

    The same name draws the same rows, in every process and on every machine; no other site's rows change them.
    """
    generator = np.random.default_rng(int(digest_bytes(f"{pool.seed}\nvirtual {site}".encode())[:16], 16))
    there = np.array([len(train.get(label, ())) for label in range(max(train) + 1)])
    shares = _shares(generator, there / there.sum(), pool.alpha)
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


def _draw(generator: np.random.Generator, shares: NDArray[np.float64], rows: ByLabel, count: int) -> Tensor:
    """Labels by their shares, among those that have rows; then rows of each, with replacement."""
    usable = np.array([share if label in rows else 0.0 for label, share in enumerate(shares)])
    usable = usable if usable.sum() > 0 else np.array([float(label in rows) for label in range(len(shares))])
    counts = generator.multinomial(count, usable / usable.sum())
    picked = [rows[label][generator.integers(len(rows[label]), size=n)] for label, n in enumerate(counts) if n]
    return torch.from_numpy(np.concatenate(picked))
