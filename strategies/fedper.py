"""FedPer: share and average all but the head; every site keeps a head of its own.

Example::

    FedPer(weighting="uniform").directives(1)                # {"private": "head"}
"""

from dataclasses import dataclass
from typing import ClassVar

from fedrelease.strategies.keeps_part import KeepsPart

__all__ = ["FedPer"]


@dataclass(frozen=True, kw_only=True)
class FedPer(KeepsPart):
    """Federated averaging of what lies below the head; each site trains a head too, which never leaves it.

    Sites whose labels mean something else at each of them share what a text is turned into, and not what is read off it. A
    release has the head of its parent: by itself it is the shared body under that head, and with a site's own head that site's
    model. In a plan of this strategy alone that head is the one of version 0.0.0, which tells no labels apart unless the
    experiment has ``model.label_texts``; a phase of another strategy before it gives releases a head that does.

    One site alone is not given back what it ended with, only what it shared; hence ``equal_stays_equal`` is not promised.

    Args:
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Source: Arivazhagan et al. (2019), https://arxiv.org/abs/1912.00818, algorithms 1 and 2, with one layer of personalisation.
    """

    part: ClassVar[str] = "head"
