"""Weighted means of updates, one tensor of one site at a time, in float64.

Example::

    weights = weights_of(updates, "uniform")
    state = {name: moved_by_mean(name, tensor, updates, weights) for name, tensor in parent.items()}
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedrelease.errors import ExperimentError, RoundFailed
from fedrelease.private_part import private_names
from fedrelease.update import State, Update

__all__ = ["check_weighting", "mean_delta", "mean_of_shared", "moved_by_mean", "narrowed", "weights_of"]

WEIGHTINGS = ("examples", "uniform")


def check_weighting(weighting: str) -> None:
    """Refuse a weighting that there is not.

    Raises:
        ExperimentError: the text names the two that there are.
    """
    if weighting not in WEIGHTINGS:
        raise ExperimentError("unknown weighting", value=weighting, rule=f"weighting is {' or '.join(WEIGHTINGS)}")


def weights_of(updates: Sequence[Update], weighting: str) -> tuple[float, ...]:
    """Each update's share; they add up to 1.

    Raises:
        RoundFailed: no update, the weights add up to 0 examples, or a site keeps its count private.
    """
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


def moved_by_mean(name: str, parent: Tensor, updates: Sequence[Update], weights: Sequence[float]) -> Tensor:
    """The parent's tensor plus the weighted sum of deltas, summed in float64 in the order given, in the parent's dtype."""
    return _added(parent.to(torch.float64, copy=True), name, updates, weights).to(parent.dtype)


def mean_of_shared(parent: State, updates: Sequence[Update], weighting: str, *, private: str) -> dict[str, Tensor]:
    """The parent moved by the weighted mean; the tensors of the private part are the parent's bit for bit, no update's is read.

    Raises:
        RoundFailed: as :func:`weights_of`.
    """
    weights, kept = weights_of(updates, weighting), private_names(parent, private)
    return {
        name: tensor if name in kept else moved_by_mean(name, tensor, updates, weights)
        for name, tensor in parent.items()
    }


def mean_delta(name: str, parent: Tensor, updates: Sequence[Update], weights: Sequence[float]) -> Tensor:
    """The weighted sum of deltas alone, float64, of the parent's shape."""
    return _added(torch.zeros(parent.shape, dtype=torch.float64), name, updates, weights)


def narrowed(value: Tensor, parent: Tensor) -> Tensor:
    """What a rule remembers: float32, or the parent's dtype where that is wider; whole numbers stay what they are."""
    return value.to(torch.promote_types(parent.dtype, torch.float32)) if value.is_floating_point() else value


def _added(total: Tensor, name: str, updates: Sequence[Update], weights: Sequence[float]) -> Tensor:
    for update, weight in zip(updates, weights, strict=True):
        total.add_(update.tensors[name], alpha=weight)
    return total
