"""FedSA-LoRA: share and average the A factors and the head; every site keeps a B of its own.

Example::

    FedSALoRA(weighting="uniform").directives(1)             # {"private": "lora_B"}
"""

from dataclasses import dataclass
from typing import ClassVar

from fedrelease.strategies.keeps_part import KeepsPart

__all__ = ["FedSALoRA"]


@dataclass(frozen=True, kw_only=True)
class FedSALoRA(KeepsPart):
    """Federated averaging of LoRA's A factors and the head; each site trains a B too, which never leaves it.

    A tends to hold what sites have in common, and B what is a site's own. A release has the B of its parent, in a plan of this
    strategy alone zero: by itself it is the base with the shared head, and with a site's own B that site's model. The head is
    shared, as A is. Since B does not move, the mean of products is the product of means: nothing is lost by averaging.

    One site alone is not given back what it ended with, only what it shared; hence ``equal_stays_equal`` is not promised.

    Args:
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Source: Guo et al. (2024), https://arxiv.org/abs/2410.01463, figure 1 (c), which speaks of the factors alone; that the head is
    shared is ours.
    """

    adapters: ClassVar[tuple[str, ...]] = ("lora",)
    part: ClassVar[str] = "lora_B"
