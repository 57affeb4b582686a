"""FoolsGold: sites that push the same way round after round are taken for one and the same.

Example::

    state, memory = FoolsGold().aggregate(parent, updates, memory)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrelease.bounds import require
from fedrelease.errors import RoundFailed
from fedrelease.strategies.chunks import gram, moved
from fedrelease.strategies.contract import Strategy, check_enough
from fedrelease.strategies.ranges import positive
from fedrelease.update import State, Update

__all__ = ["FoolsGold"]

ALMOST_ONE = 0.99


@dataclass(frozen=True, kw_only=True)
class FoolsGold(Strategy):
    """The parent plus a weighted mean of the deltas, in which sites weigh less the more their summed deltas look alike.

    Memory: for every site that ever answered the sum of its deltas of the tensors that are compared, ``seen/<site>/<name>`` in
    the parent's dtypes. It is part of every release, so that by default it is the head's only, as in the paper: what it pushes
    towards shows there, and an adapter for each site would outweigh the model.

    Args:
        compared: names of the compared tensors begin with it: ``head`` (the default), ``""`` for all.
        confidence: kappa of the paper: how sharply alike and unlike are told apart.

    Guarantees: of sites whose summed deltas point in exactly one direction, none counts as soon as another site's does not.
    Nothing bounds a single hostile site, however long its update: put a limit on that with ``federation.max_update_norm``. Honest
    sites with the same data look alike too, and lose weight.

    Source: Fung et al. (2020), https://arxiv.org/abs/1808.04866, algorithm 1. The paper adds the weighted updates up; here
    the sum is divided by the weights' sum, since ours are deltas of whole local trainings. Where all sites are alike, the
    algorithm divides 0 by 0; this is taken as 1 for each, the limit.
    """

    compared: str = "head"
    confidence: float = 1.0

    def __post_init__(self) -> None:
        """Check the knobs."""
        require(isinstance(self.compared, str), "compared", self.compared, 'is the beginning of names, such as "head"')
        positive("confidence", self.confidence)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Compare in float64, then add up; the result has the parent's dtypes.

        Raises:
            RoundFailed: no update, or no tensor's name begins with ``compared``.
        """
        check_enough(self, "foolsgold", updates)
        names = [name for name in parent if name.startswith(self.compared)]
        if not names:
            raise RoundFailed(
                "foolsgold has nothing to compare",
                value=self.compared,
                rule="the name of at least one tensor begins with the knob compared",
                hint=f"choose one of {', '.join(sorted({name.partition('.')[0] for name in parent}))}",
            )
        seen = {f"seen/{update.site}/{name}": _added(memory, update, name) for update in updates for name in names}
        sums = [{name: seen[f"seen/{update.site}/{name}"] for name in names} for update in updates]
        weights = _weights(_cosines(gram(sums, names)), self.confidence)
        return moved(parent, updates, (weights / weights.sum()).tolist()), {**memory, **seen}


def _added(memory: State, update: Update, name: str) -> Tensor:
    """The sum of what this site ever sent, and now."""
    before, now = memory.get(f"seen/{update.site}/{name}"), update.tensors[name]
    return now.clone() if before is None else (before.to(torch.float64) + now).to(now.dtype)


def _cosines(products: Tensor) -> Tensor:
    """Of each two sites, 0 for one that has not moved and for a site with itself."""
    lengths = products.diagonal().sqrt()
    found = products / (lengths[:, None] * lengths[None, :])
    return torch.where(torch.isfinite(found), found, 0.0).clamp(max=1.0).fill_diagonal_(0.0)


def _weights(cosines: Tensor, confidence: float) -> Tensor:
    """The paper's alpha, in [0, 1], from the cosines of the sites' sums."""
    most = cosines.amax(1).clamp(min=0.0)
    pardoned = torch.where(most[:, None] < most[None, :], cosines * most[:, None] / most[None, :], cosines)
    alone = (1 - pardoned.amax(1)).clamp(0.0, 1.0)
    if not bool(alone.max() > 0):
        return torch.ones_like(alone)
    scaled = (alone / alone.max()).clamp(max=ALMOST_ONE)
    return (confidence * (torch.log(scaled / (1 - scaled)) + 0.5)).clamp(0.0, 1.0)
