"""What an experiment asks of a classification's loss in training: smoothed labels, and classes that weigh more than others.

Example::

    options = LossOptions(smoothing=0.1, weights=torch.tensor([1.0, 3.0]))
    options.cross_entropy(logits, labels)              # float32, one a label: what training adds up

Evaluation knows none of this: a hold-out's loss is the plain one, whatever a site trains with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedrelease.data.tokens import IGNORED

__all__ = ["PLAIN", "LossOptions", "balanced_weights", "named_weights"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LossOptions:
    """How far labels are smoothed, and how much each class weighs.

    Attributes:
        smoothing: this share of the truth is dealt evenly to all labels. Source: Szegedy et al. (2016),
            https://arxiv.org/abs/1512.00567, section 7.
        weights: float32 ``[labels]``: what a loss is multiplied by, by its true label; ``None`` = 1 for all.
    """

    smoothing: float = 0.0
    weights: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing is asked for."""
        return self.smoothing == 0 and self.weights is None

    def cross_entropy(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Of each item by itself, float32 in the shape of ``truth``; 0 where that is ``IGNORED``.

        Args:
            logits: ``[rows, labels]`` or ``[rows, labels, items]``.
            truth: int64 ``[rows]`` or ``[rows, items]``.
        """
        losses = functional.cross_entropy(
            logits, truth, reduction="none", ignore_index=IGNORED, label_smoothing=self.smoothing
        )
        return losses if self.weights is None else losses * self.weights[truth.clamp(min=0)]


PLAIN = LossOptions()


def named_weights(weights: Mapping[str, float], labels: Sequence[str]) -> Tensor | None:
    """``[labels]``, 1 for those without a weight of their own; ``None`` where none has one."""
    return torch.tensor([weights.get(label, 1.0) for label in labels]) if weights else None


def balanced_weights(truth: Tensor, labels: int) -> Tensor:
    """``[labels]``: items / (labels that are there * items of the label); 1 for a label that is not there.

    Args:
        truth: int64, the labels of a site's training rows, or of their words; ``IGNORED`` does not count.

    Every label then weighs as much as every other, and the weights' mean over items is 1. Source: King and Zeng (2001),
    https://doi.org/10.1093/oxfordjournals.pan.a004868, as scikit-learn's ``class_weight="balanced"`` has it.
    """
    counts = torch.bincount(truth[truth != IGNORED], minlength=labels).float()
    return torch.where(counts > 0, counts.sum() / ((counts > 0).sum() * counts.clamp(min=1)), 1.0)
