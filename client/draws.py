"""What is drawn at random for a row that trains: by row, step and round, whoever else is in its batch.

Example::

    draws = Draws(key=job.seeds.key, step=12, rows=indices)
    draws.uniform("tokens", (30,))           # float32 [rows, 30], at least 0 and below 1

A row's numbers follow from the site's question (which has the round), the step and the row's place alone. So a run repeats
whatever ``micro_batch`` is; and with privacy a row's gradient, changed at random or not, still depends on that row alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrelease.client.sampling import seeded_generator

__all__ = ["Draws"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """Numbers for some rows in one step.

    Attributes:
        key: of the question, as noise and sampling have it.
        step: counted over the whole plan.
        rows: int64, places among the job's rows.
    """

    key: str
    step: int
    rows: Tensor

    def each(self, what: str) -> Iterator[torch.Generator]:
        """A generator for each row, for this purpose."""
        for row in self.rows.tolist():
            yield seeded_generator(what, self.key, str(self.step), str(row))

    def uniform(self, what: str, shape: Sequence[int]) -> Tensor:
        """Independent numbers, float32 ``[rows, *shape]``; a longer shape begins with the numbers of a shorter one."""
        numbers = [torch.rand(tuple(shape), generator=generator) for generator in self.each(what)]
        return torch.stack(numbers) if numbers else torch.zeros(0, *shape)
