"""FedDyn: dynamic regularisation, by which each site's optimum becomes the joint one.

Example::

    FedDyn(alpha=0.1).directives(1)                          # {"variate": "feddyn", "alpha": 0.1}
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

__all__ = ["FedDyn"]

MEMORY = "h"


@dataclass(frozen=True, kw_only=True)
class FedDyn(Strategy):
    """The mean of the sites' states, less a running correction; sites add a linear term of their own and a pull to their loss.

    Site ``k`` keeps ``g_k``, begun at zero, and trains on ``loss(w) - <g_k, w> + alpha / 2 |w - w_came|^2``, then takes
    ``alpha (w - w_came)`` off ``g_k``. The server keeps ``h``, the mean of those terms over all sites, and releases
    ``mean(w_k) - h / alpha``. Nothing more than in ``fedavg`` travels.

    One round of sites that all agree goes twice as far as they went: ``h`` is their own way, counted once more.

    With privacy ``g_k`` is a function of states that were trained with noise, and paid for: post-processing.

    An answer that comes too late to count leaves ``h`` without that site's part, as in the paper.

    Args:
        alpha: strength of the pull, and one over the strength of the server's correction.
        population: ``m``, how many sites there are, of whom a round asks some; not given, as many as the phase may ask.

    Source: Acar et al. (2021), https://arxiv.org/abs/2111.04263, algorithm 1.
    """

    equal_stays_equal = False

    alpha: float = 0.1
    population: int | None = None

    def __post_init__(self) -> None:
        """Check the knobs."""
        positive("alpha", self.alpha)
        check_population("feddyn", self.population)

    def among(self, sites: int) -> "FedDyn":
        """With ``m`` from the federation, unless the experiment says it."""
        return self if self.population is not None else replace(self, population=sites)

    def directives(self, round: int) -> Mapping[str, float | str | bool]:
        """Clients regularise their loss, and keep a linear term."""
        return {"variate": "feddyn", "alpha": self.alpha}

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """``h - alpha sum(w_k - parent) / m``, then ``mean(w_k) - h / alpha``, summed in float64; ``h`` stays float64.

        Raises:
            RoundFailed: no update, or more of them than there are sites.
        """
        check_enough(self, "feddyn", updates)
        weights, share = weights_of(updates, "uniform"), share_of(updates, self.population)
        state, kept = {}, dict[str, Tensor]()
        for name, tensor in parent.items():
            delta = mean_delta(name, tensor, updates, weights)
            h = _before(name, tensor, memory) - self.alpha * share * delta
            state[name] = (tensor.double() + delta - h / self.alpha).to(tensor.dtype)
            kept[f"{MEMORY}/{name}"] = h
        return state, kept


def _before(name: str, like: Tensor, memory: State) -> Tensor:
    known = memory.get(f"{MEMORY}/{name}")
    return torch.zeros(like.shape, dtype=torch.float64) if known is None else known
