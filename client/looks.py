"""Looks at a site's own hold-out while it trains, without privacy: when to stop early, and which state was the best.

Example::

    looks = Looks(training, rows=96, steps=30, validate=lambda: mean_loss(model, holdout))
    looks.are_enough(model, steps_done)          # after each step; it looks once an epoch
    looks.end(model)                             # 9: the steps that led to the state that the model has now
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedrelease.experiment import Training

__all__ = ["Looks"]


class Looks:
    """Early stopping once ``patience`` epochs brought no better loss; and with ``keep_best`` the state of the best epoch."""

    def __init__(
        self, training: Training, *, rows: int, steps: int, validate: Callable[[], float] | None = None
    ) -> None:
        """Ask nothing where nobody wants to know, or there is no way to validate."""
        wanted = training.patience is not None or training.keep_best
        self._validate = validate if wanted else None
        self._left = self._allowed = training.patience
        self._keeps = training.keep_best
        self._epoch, self._steps = -(-rows // training.batch_size), steps
        self._loss = float("inf")
        self._done = 0
        self._best: tuple[int, list[Tensor]] | None = None

    def are_enough(self, model: nn.Module, done: int) -> bool:
        """Look once an epoch, and with ``keep_best`` after the last step too; whether training stops here."""
        self._done = done
        last = self._keeps and done == self._steps
        if self._validate is None or (done % self._epoch and not last):
            return False
        loss = self._validate()
        better = loss < self._loss
        self._loss = min(self._loss, loss)
        if better and self._keeps:
            self._best = done, [value.detach().clone() for value in _trained(model)]
        if self._allowed is None or self._left is None:
            return False
        self._left = self._allowed if better else self._left - 1
        return self._left <= 0

    @torch.no_grad()
    def end(self, model: nn.Module) -> int:
        """Put the best state into the model, where one was kept; how many steps led to what it has then.

        Where no loss was a number, the last state stays, for the server to refuse.
        """
        if self._best is None:
            return self._done
        done, values = self._best
        for parameter, value in zip(_trained(model), values, strict=True):
            parameter.copy_(value)
        return done


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
