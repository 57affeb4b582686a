"""Which rows a step trains on, and where its noise comes from.

Example::

    generator = seeded_generator("sampling", charge)
    poisson_batch(2800, sample_rate=0.1, generator=generator)    # int64 row numbers, about 280, perhaps none
"""

import hashlib
import secrets
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["noise_generator", "poisson_batch", "seeded_generator", "shuffled_batches"]


def seeded_generator(*parts: str) -> torch.Generator:
    """A generator that depends on every part and on nothing else: equal parts, equal numbers, on every machine."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=False) >> 1)


def noise_generator(kind: str, *parts: str) -> torch.Generator:
    """The source of noise: ``seeded`` by ``parts`` (a simulation that repeats), or ``secure`` from the operating system.

    Never torch's global generator: two sites that seed that alike would draw the same noise.
    """
    if kind == "seeded":
        return seeded_generator("noise", *parts)
    return seeded_generator("noise", secrets.token_hex(32))


def poisson_batch(rows: int, *, sample_rate: float, generator: torch.Generator) -> Tensor:
    """Row numbers, int64, each of ``rows`` taken with probability ``sample_rate`` on its own; may be empty."""
    return (torch.rand(rows, generator=generator, dtype=torch.float64) < sample_rate).nonzero().flatten()


def shuffled_batches(rows: int, *, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of row numbers: each epoch sees every row once in a new order; its last batch may be smaller."""
    while True:
        yield from torch.split(torch.randperm(rows, generator=generator), batch_size)
