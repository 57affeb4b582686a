"""Which rows a step trains on, and where its noise comes from.

Example::

    source = randomness("seeded", "sampling", charge)
    poisson_batch(2800, sample_rate=0.1, source=source)    # int64 row numbers, about 280, perhaps none
    randomness("secure").normal(1.0, (2, 2))               # float64, from the operating system
"""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy
import torch
from torch import Tensor

__all__ = [
    "Randomness",
    "Secure",
    "Seeded",
    "poisson_batch",
    "randomness",
    "seeded_generator",
    "shuffled_batches",
]

PIECE = 1 << 18
"""Numbers that are made at once: of a whole embedding, what they are made of would take more memory than the model."""


class Randomness(Protocol):
    """Where the numbers come from that privacy rests on."""

    def normal(self, deviation: float, shape: Sequence[int], *, dtype: torch.dtype = torch.float64) -> Tensor:
        """Independent Gaussian numbers of mean 0 and this standard deviation."""
        ...

    def uniform(self, count: int) -> Tensor:
        """Independent numbers, float64, at least 0 and below 1."""
        ...


class Seeded:
    """Numbers that repeat: for simulations. A torch seed holds 32 bits, so they protect nobody."""

    def __init__(self, generator: torch.Generator) -> None:
        """Draw from ``generator``."""
        self._generator = generator

    def normal(self, deviation: float, shape: Sequence[int], *, dtype: torch.dtype = torch.float64) -> Tensor:
        """Gaussian numbers in the order in which torch draws them."""
        return torch.normal(0.0, deviation, tuple(shape), generator=self._generator, dtype=dtype)

    def uniform(self, count: int) -> Tensor:
        """Uniform numbers in the order in which torch draws them."""
        return torch.rand(count, generator=self._generator, dtype=torch.float64)


class Secure:
    """Numbers from the operating system's cryptographic source; they never repeat and have no seed to guess.

    No torch generator stands behind them: its seed holds 32 bits, which anybody who sees an answer can try one by one, and a
    Mersenne twister can be continued from its outputs.
    """

    def normal(self, deviation: float, shape: Sequence[int], *, dtype: torch.dtype = torch.float64) -> Tensor:
        """Gaussian numbers, made in float64 whatever ``dtype`` asks for, so that sums with them are rounded once.

        Source: Box and Muller (1958), https://doi.org/10.1214/aoms/1177706645.
        """
        found = torch.empty(math.prod(shape), dtype=torch.float64)
        for piece in torch.split(found, PIECE):
            first, second = (
                (1.0 - self.uniform(len(piece))),
                self.uniform(len(piece)),
            )  # 1 - u is above 0: its logarithm is finite
            piece.copy_(deviation * torch.sqrt(-2 * torch.log(first)) * torch.cos(2 * math.pi * second))
        return found.reshape(tuple(shape))

    def uniform(self, count: int) -> Tensor:
        """Multiples of 2**-53."""
        words = numpy.frombuffer(os.urandom(8 * count), dtype=numpy.uint64)
        return torch.from_numpy((words >> numpy.uint64(11)).astype(numpy.float64) * 2.0**-53)


def randomness(kind: str, *parts: str) -> Randomness:
    """``seeded`` by ``parts`` (a simulation that repeats); anything else is ``secure``, from the operating system.

    Never torch's global generator: two sites that seed that alike would draw the same noise.
    """
    return Seeded(seeded_generator(*parts)) if kind == "seeded" else Secure()


def seeded_generator(*parts: str) -> torch.Generator:
    """A generator that depends on every part and on nothing else: equal parts, equal numbers, on every machine."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=False) >> 1)


def poisson_batch(rows: int, *, sample_rate: float, source: Randomness) -> Tensor:
    """Row numbers, int64, each of ``rows`` taken with probability ``sample_rate`` on its own; may be empty."""
    return (source.uniform(rows) < sample_rate).nonzero().flatten()


def shuffled_batches(rows: int, *, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of row numbers: each epoch sees every row once in a new order; its last batch may be smaller."""
    while True:
        yield from torch.split(torch.randperm(rows, generator=generator), batch_size)
