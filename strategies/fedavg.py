"""Federated averaging.

Example::

    FedAvg(weighting="examples").aggregate(parent, updates, {})[0]["head.bias"]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrelease.errors import ExperimentError, RoundFailed
from fedrelease.update import State, Update

__all__ = ["FedAvg"]


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """The parent plus the weighted mean of the sites' deltas.

    Args:
        weighting: ``uniform`` (one site, one vote: example counts stay private) or ``examples``.

    Source: McMahan et al. (2017), https://arxiv.org/abs/1602.05629, algorithm 1.
    """

    weighting: str = "uniform"

    def __post_init__(self) -> None:
        """Check the knob."""
        if self.weighting not in ("examples", "uniform"):
            raise ExperimentError("unknown weighting", value=self.weighting, rule="weighting is examples or uniform")

    def directives(self, round: int) -> Mapping[str, float | str | bool]:
        """Nothing: clients train plainly."""
        return {}

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Sum in float64, one tensor of one site at a time, in the order given; the result has the parent's dtypes.

        Raises:
            RoundFailed: no update, or the weights add up to 0 examples.
        """
        weights = _weights(updates, self.weighting)
        return {name: _mean_of(name, tensor, updates, weights) for name, tensor in parent.items()}, {}


def _mean_of(name: str, parent: Tensor, updates: Sequence[Update], weights: Sequence[float]) -> Tensor:
    total = parent.to(torch.float64, copy=True)
    for update, weight in zip(updates, weights, strict=True):
        total.add_(update.tensors[name], alpha=weight)
    return total.to(parent.dtype)


def _weights(updates: Sequence[Update], weighting: str) -> tuple[float, ...]:
    counts = [1 if weighting == "uniform" else _examples(update) for update in updates]
    if sum(counts) <= 0:
        raise RoundFailed(
            f"{len(updates)} sites answered with {sum(counts)} examples between them, so no weight is defined",
            value=[update.site for update in updates],
            rule="at least one update with at least one example",
            hint='set strategy = { name = "fedavg", weighting = "uniform" }',
        )
    return tuple(count / sum(counts) for count in counts)


def _examples(update: Update) -> int:
    if update.examples is None:
        raise RoundFailed(
            f"{update.site} keeps its number of examples private",
            value="weighting = examples",
            rule="weighting by examples needs every site to tell its count",
            hint='set strategy = { name = "fedavg", weighting = "uniform" }, the default',
        )
    return update.examples
