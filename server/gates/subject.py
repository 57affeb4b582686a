"""What gates may look at of one release: the candidate, and each release that it is compared with.

Example::

    candidate = Subject(name="candidate 0.1.3", manifest=manifest, state=state, digests=digests, items=items)
    stable = Subject(name="stable 0.1.2", manifest=release.manifest, items=Items.from_bytes(blob))

What is ``None`` was not measured; a gate that needs it says ``error``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from fedrelease.experiment import Privacy
from fedrelease.manifest import Manifest
from fedrelease.server.gates.items import Items
from fedrelease.update import State

__all__ = ["SiteScores", "Step", "Subject", "cosine", "layout_of", "step_between"]


@dataclass(frozen=True, kw_only=True)
class SiteScores:
    """What sites told of their hold-outs where no item is told: accuracies, with the noise that privacy added.

    Attributes:
        evaluation: sha256 of what says which rows are held out at which site.
        accuracy: by site; with noise it may lie outside of 0 to 1.
        examples: by site, the rows behind it (as told, noise included).
        noise: by site, the standard deviation of the accuracy's noise; 0 where it is exact.
    """

    evaluation: str
    accuracy: Mapping[str, float]
    examples: Mapping[str, float]
    noise: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Step:
    """The step from the parent to the candidate, and those before it.

    Attributes:
        norm: L2, parameter units.
        earlier: norms of earlier rounds' steps that this one may be compared with, oldest first.
        cosine: to the last step; None where there is none.
        accepted, refused: answers of the round.
    """

    norm: float
    earlier: tuple[float, ...]
    cosine: float | None
    accepted: int
    refused: int


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One release as the gates see it.

    Attributes:
        name: how findings call it: ``stable 0.1.2``.
        manifest: its facts; the verdict and metrics in it are not looked at.
        state: its tensors.
        digests: path -> sha256 of the bytes that lie in the store now.
        declared: name -> dtype and shape that the tensors must have, see :func:`layout_of`.
        items, scores: what it said about each item; or what sites told without items.
        earlier_scores: the same on the rows of fewer labels, as earlier releases knew them.
        step: how it came from its parent; None in the first round.
        plan: the privacy that was promised.
        seconds: times of single answers, ``[k]``, taken in turns with the release that it is compared with.
        memory_bytes: peak, of answering.
        pinned: it is the anchor, with which every round is compared on the same items: see ``QualityRule.anchor_looks``.
        looks: how often its evaluation set was looked at, this time included.
    """

    name: str
    manifest: Manifest
    state: State | None = None
    digests: Mapping[str, str] | None = None
    declared: Mapping[str, str] | None = None
    items: Items | None = None
    scores: SiteScores | None = None
    earlier_scores: tuple[SiteScores, ...] = ()
    step: Step | None = None
    plan: Privacy = field(default_factory=Privacy)
    seconds: NDArray[np.float64] | None = None
    memory_bytes: int | None = None
    looks: int | None = None
    pinned: bool = False


def layout_of(state: State) -> dict[str, str]:
    """Name -> dtype and shape of each tensor, as in ``float32[2, 384]``."""
    return {name: f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}" for name, tensor in state.items()}


def step_between(parent: State, state: State) -> dict[str, torch.Tensor]:
    """``state - parent`` in float64, of the tensors that both have in one shape: a head that grew is not compared."""
    return {
        name: tensor.double() - parent[name].double()
        for name, tensor in state.items()
        if name in parent and parent[name].shape == tensor.shape
    }


def cosine(first: State, second: State) -> float | None:
    """Of the angle between two steps, over the tensors that both have in one shape; None when either is zero there."""
    shared = [name for name in first if name in second and first[name].shape == second[name].shape]
    dot = math.fsum(float((first[name].double() * second[name].double()).sum()) for name in shared)
    squares = [math.fsum(float(step[name].double().square().sum()) for name in shared) for step in (first, second)]
    return None if 0 in squares else dot / math.sqrt(squares[0] * squares[1])
