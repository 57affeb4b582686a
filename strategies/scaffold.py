"""SCAFFOLD: control variates against the drift of sites whose data differ.

Example::

    Scaffold(lr=1.0).directives(1)                           # {"variate": "scaffold"}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedrelease.strategies.averaging import mean_delta, weights_of
from fedrelease.strategies.contract import Strategy, check_enough
from fedrelease.strategies.population import check_population, share_of
from fedrelease.strategies.ranges import positive
from fedrelease.update import State, Update

__all__ = ["Scaffold"]

KIND = "variate"


@dataclass(frozen=True, kw_only=True)
class Scaffold(Strategy):
    """Federated averaging in which every site's steps are corrected by how its gradients differ from everybody's.

    Each site ``i`` keeps a variate ``c_i``, the mean gradient of its last round, and the server ``c``, the mean of theirs; a step
    goes along ``gradient - c_i + c``. At the joint optimum that is zero for every site, whatever its own optimum is. Beside its
    delta a site sends the change of ``c_i``; beside the state it is sent ``c``: twice the bytes of ``fedavg``, both ways.

    With privacy a site's ``c_i`` is the mean of gradients that were clipped and noised, and paid for, before they came here: all
    that is sent of it is post-processing and costs nothing more.

    An answer that comes too late to count leaves ``c`` without that site's change, as in the paper.

    Args:
        lr: the global step size; 1 goes all the way to the mean.
        population: ``N``, how many sites there are, of whom a round asks some; not given, as many as the phase may ask.

    Source: Karimireddy et al. (2020), https://arxiv.org/abs/1910.06378, algorithm 1, option II, lines 16 and 17.
    """

    companions = (KIND,)

    lr: float = 1.0
    population: int | None = None

    def __post_init__(self) -> None:
        """Check the knobs."""
        positive("lr", self.lr)
        check_population("scaffold", self.population)

    def among(self, sites: int) -> "Scaffold":
        """With ``N`` from the federation, unless the experiment says it."""
        return self if self.population is not None else replace(self, population=sites)

    def directives(self, round: int) -> Mapping[str, float | str | bool]:
        """Clients correct their gradients, and keep a variate."""
        return {"variate": "scaffold"}

    def broadcast(self, parent: State, memory: State) -> State:
        """``c``, zeros in the first round."""
        return {f"{KIND}/{name}": _variate(name, tensor, memory) for name, tensor in parent.items()}

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Line 17: ``x + lr * mean(y_i - x)`` and ``c + sum(change of c_i) / N``, summed in float64.

        Raises:
            RoundFailed: no update, or more of them than there are sites.
        """
        check_enough(self, "scaffold", updates)
        weights = weights_of(updates, "uniform")
        share = share_of(updates, self.population)
        state = {name: _moved(name, tensor, tensor, updates, weights, self.lr) for name, tensor in parent.items()}
        variates = {
            f"{KIND}/{name}": _moved(f"{KIND}/{name}", tensor, _variate(name, tensor, memory), updates, weights, share)
            for name, tensor in parent.items()
        }
        return state, variates


def _variate(name: str, like: Tensor, memory: State) -> Tensor:
    return memory[f"{KIND}/{name}"] if f"{KIND}/{name}" in memory else torch.zeros_like(like)


def _moved(
    name: str, like: Tensor, before: Tensor, updates: Sequence[Update], weights: Sequence[float], step: float
) -> Tensor:
    return (before.double() + step * mean_delta(name, like, updates, weights)).to(like.dtype)
