"""The knobs of each gate: what a phase may ask of a candidate, with defaults and bounds.

In the experiment's file each is a table, ``[phase.gates.quality]``; what a gate does with its knobs is in
``fedrelease.server.gates``.

Example::

    rule = GATES["quality"](margin=0.01)                     # QualityRule(severity='block', margin=0.01, alpha=0.05, ...)
    GATES["quality"](margin=2.0)                             # ExperimentError: gates.quality.margin is out of bounds

Shares and differences of accuracy are numbers between 0 and 1: a margin of 0.02 is two points.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fedrelease.bounds import one_of, positive, require

__all__ = [
    "GATES",
    "SEVERITIES",
    "ChurnRule",
    "CompatibilityRule",
    "GateRule",
    "IntegrityRule",
    "LatencyRule",
    "LooksRule",
    "LossRule",
    "MemoryRule",
    "PrivacyRule",
    "QualityRule",
    "SizeRule",
    "UpdateRule",
]

SEVERITIES = ("block", "warn", "info")
"""Only ``block`` holds a release."""


class GateRule(Protocol):
    """What all rules share."""

    @property
    def severity(self) -> str:
        """One of :data:`SEVERITIES`."""


def _severity(key: str, value: str) -> None:
    one_of(f"gates.{key}", value, SEVERITIES)


def _share(key: str, value: float) -> None:
    require(0 < value < 1, f"gates.{key}", value, "is above 0 and below 1: 0.02 is two points")


def _alpha(key: str, value: float) -> None:
    require(0 < value <= 0.5, f"gates.{key}", value, "is above 0 and at most 0.5")


def _ratio(key: str, value: float) -> None:
    fits = math.isfinite(value) and value >= 1
    require(fits, f"gates.{key}", value, "is a number of at least 1: 1.2 allows a fifth more")


@dataclass(frozen=True, kw_only=True)
class IntegrityRule:
    """Bytes are those of the manifest; tensors are the declared ones, and finite."""

    severity: str = "block"

    def __post_init__(self) -> None:
        """Check bounds."""
        _severity("integrity.severity", self.severity)


@dataclass(frozen=True, kw_only=True)
class CompatibilityRule:
    """The interface is that of what serves, or MAJOR is higher."""

    severity: str = "block"

    def __post_init__(self) -> None:
        """Check bounds."""
        _severity("compatibility.severity", self.severity)


@dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """The round's step looks like those before it.

    Attributes:
        most_deviations: by how many scaled median deviations the step's norm may differ from the median of earlier ones.
        least_rounds: earlier steps that it takes to say so.
        least_cosine: to the last step; -1 allows everything.
        least_sites: whose updates count.
        most_refused: share of the answers that were refused.
    """

    severity: str = "warn"
    most_deviations: float = 6.0
    least_rounds: int = 3
    least_cosine: float = -0.5
    least_sites: int = 1
    most_refused: float = 0.5

    def __post_init__(self) -> None:
        """Check bounds."""
        _severity("update.severity", self.severity)
        positive("gates.update.most_deviations", self.most_deviations)
        require(self.least_rounds >= 2, "gates.update.least_rounds", self.least_rounds, "is at least 2")
        fits = -1 <= self.least_cosine <= 1
        require(fits, "gates.update.least_cosine", self.least_cosine, "is between -1 and 1")
        require(self.least_sites >= 1, "gates.update.least_sites", self.least_sites, "is at least 1")
        fits = 0 <= self.most_refused <= 1
        require(fits, "gates.update.most_refused", self.most_refused, "is between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class QualityRule:
    """Not worse than what serves, and than the anchor, by more than a margin.

    Attributes:
        margin: of accuracy over all items.
        alpha: one-sided, of each bound: the chance to pass a model that is worse by the margin.
        anchor_looks: the anchor stays while releases come and go, so its alpha is divided by the number of rounds that may be
            compared with it on one evaluation set; 1 = every round spends the whole of it.
        class_margin, class_severity: of the recall of each class.
        site_margin, site_severity: of the accuracy at each site, at the worst one, and at the worst tenth of them.
        undecided_slices: severity of a class or site of which there are too few items to decide. ``block`` asks every slice
            to pass; ``warn`` holds a release only for slices that are worse for sure.
    """

    severity: str = "block"
    margin: float = 0.02
    alpha: float = 0.05
    anchor_looks: int = 20
    class_margin: float = 0.05
    class_severity: str = "block"
    site_margin: float = 0.05
    site_severity: str = "block"
    undecided_slices: str = "warn"

    def __post_init__(self) -> None:
        """Check bounds."""
        for key in ("severity", "class_severity", "site_severity", "undecided_slices"):
            _severity(f"quality.{key}", getattr(self, key))
        for key in ("margin", "class_margin", "site_margin"):
            _share(f"quality.{key}", getattr(self, key))
        _alpha("quality.alpha", self.alpha)
        require(
            1 <= self.anchor_looks <= 1000, "gates.quality.anchor_looks", self.anchor_looks, "is between 1 and 1000"
        )


@dataclass(frozen=True, kw_only=True)
class LossRule:
    """Mean loss is not higher by more than ``margin`` (nats an item); ``draws`` of the bootstrap."""

    severity: str = "warn"
    margin: float = 0.05
    alpha: float = 0.05
    draws: int = 2000

    def __post_init__(self) -> None:
        """Check bounds."""
        _severity("loss.severity", self.severity)
        positive("gates.loss.margin", self.margin)
        _alpha("loss.alpha", self.alpha)
        require(200 <= self.draws <= 100_000, "gates.loss.draws", self.draws, "is between 200 and 100000")


@dataclass(frozen=True, kw_only=True)
class ChurnRule:
    """At most a share ``most`` of all items were right and turn wrong."""

    severity: str = "warn"
    most: float = 0.05
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Check bounds."""
        _severity("churn.severity", self.severity)
        _share("churn.most", self.most)
        _alpha("churn.alpha", self.alpha)


@dataclass(frozen=True, kw_only=True)
class PrivacyRule:
    """The worst site's epsilon is within the plan's, and within ``epsilon`` where it is given."""

    severity: str = "block"
    epsilon: float | None = None

    def __post_init__(self) -> None:
        """Check bounds."""
        _severity("privacy.severity", self.severity)
        if self.epsilon is not None:
            positive("gates.privacy.epsilon", self.epsilon)


@dataclass(frozen=True, kw_only=True)
class LatencyRule:
    """The median time of an answer is at most ``most_ratio`` times that of what serves.

    Attributes:
        least_timings: of each, taken in turns on one machine.
        widest: an interval of the ratio that is wider than this decides nothing.
    """

    severity: str = "warn"
    most_ratio: float = 1.2
    alpha: float = 0.05
    least_timings: int = 20
    widest: float = 0.5

    def __post_init__(self) -> None:
        """Check bounds."""
        _severity("latency.severity", self.severity)
        _ratio("latency.most_ratio", self.most_ratio)
        _alpha("latency.alpha", self.alpha)
        require(self.least_timings >= 5, "gates.latency.least_timings", self.least_timings, "is at least 5")
        positive("gates.latency.widest", self.widest)


@dataclass(frozen=True, kw_only=True)
class MemoryRule:
    """Peak memory of answering is at most ``most_ratio`` times that of what serves."""

    severity: str = "warn"
    most_ratio: float = 1.2

    def __post_init__(self) -> None:
        """Check bounds."""
        _severity("memory.severity", self.severity)
        _ratio("memory.most_ratio", self.most_ratio)


@dataclass(frozen=True, kw_only=True)
class SizeRule:
    """The files that serve are at most ``most_ratio`` times as large as those of what serves now."""

    severity: str = "warn"
    most_ratio: float = 1.2

    def __post_init__(self) -> None:
        """Check bounds."""
        _severity("size.severity", self.severity)
        _ratio("size.most_ratio", self.most_ratio)


@dataclass(frozen=True, kw_only=True)
class LooksRule:
    """One evaluation set is looked at fewer than ``most`` times: each look that chooses fits it a little."""

    severity: str = "warn"
    most: int = 50

    def __post_init__(self) -> None:
        """Check bounds."""
        _severity("looks.severity", self.severity)
        require(self.most >= 1, "gates.looks.most", self.most, "is at least 1")


GATES: Mapping[str, type[GateRule]] = {
    "churn": ChurnRule,
    "compatibility": CompatibilityRule,
    "integrity": IntegrityRule,
    "latency": LatencyRule,
    "looks": LooksRule,
    "loss": LossRule,
    "memory": MemoryRule,
    "privacy": PrivacyRule,
    "quality": QualityRule,
    "size": SizeRule,
    "update": UpdateRule,
}
