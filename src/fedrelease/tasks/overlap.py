"""ROUGE-L: how much of what was written is in what was wanted, in the same order.

Example::

    rouge_l([4, 5, 6], [4, 6, 7, 8])        # 0.571...: two in common, of three and of four

Over the base's own tokens, without stemming: numbers are for comparing versions with each other, not with published ones.
Source: Lin (2004), https://aclanthology.org/W04-1013, section 3.2, with equal weight on precision and recall.
"""

from collections.abc import Sequence
from itertools import pairwise

__all__ = ["rouge_l"]


def rouge_l(found: Sequence[int], wanted: Sequence[int]) -> float:
    """Harmonic mean of the shares of either that their longest common subsequence has; 0 where they share nothing."""
    common = _longest_common(found, wanted)
    return 2 * common / (len(found) + len(wanted)) if common else 0.0


def _longest_common(found: Sequence[int], wanted: Sequence[int]) -> int:
    """Row by row of the table of beginnings."""
    above = [0] * (len(wanted) + 1)
    for one in found:
        here = [0]
        for (before, over), other in zip(pairwise(above), wanted, strict=True):
            here.append(before + 1 if one == other else max(over, here[-1]))
        above = here
    return above[-1]
