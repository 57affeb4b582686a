"""Dual adapters: share and average one pair of LoRA factors and the head; every site keeps a second pair of its own.

Example::

    FedDPA(weighting="uniform").directives(1)                # {"private": "second-adapter"}
"""

from dataclasses import dataclass
from typing import ClassVar

from fedrelease.strategies.keeps_part import KeepsPart

__all__ = ["FedDPA"]


@dataclass(frozen=True, kw_only=True)
class FedDPA(KeepsPart):
    """Federated averaging of LoRA's factors and the head; each site trains a second pair of factors too, which never leaves it.

    The second pair (``[model.adapter] own_rank``) lies at the same modules, and a layer adds up both products. A site trains both
    pairs and the head together. A release has the second pair of its parent, whose B is zero: by itself it is the base with the
    shared pair, and with a site's own pair that site's model.

    One site alone is not given back what it ended with, only what it shared; hence ``equal_stays_equal`` is not promised.

    Args:
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Source: Yang et al. (2024), https://arxiv.org/abs/2403.19211: a global adapter that travels and a local one that stays. There
    the local one is trained after the global one, or in turns with it, and each text weighs the two anew; that both are trained
    together, with one weight for every text, is ours.
    """

    adapters: ClassVar[tuple[str, ...]] = ("lora",)
    keeps_own_pair: ClassVar[bool] = True
    part: ClassVar[str] = "second-adapter"
