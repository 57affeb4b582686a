"""What a tracker is told about one release: its manifest's numbers, and what the round took.

Example::

    told = measured(release.manifest, entry)
    told.step, told.numbers["mean/accuracy"], told.words["digest"]
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fedrelease.manifest import Manifest, MetricsFacts

__all__ = ["Cost", "Measured", "measured"]

_UNFIT = re.compile(r"[^\w.-]|^\.+")


class Cost(Protocol):
    """What a round took: a line of the log, or the event of a release."""

    @property
    def seconds(self) -> float | None:
        """Of the whole round."""

    @property
    def bytes_up(self) -> int | None:
        """From the sites."""

    @property
    def bytes_down(self) -> int | None:
        """To the sites."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One release, for a tracker.

    Attributes:
        step: the round, counted through all phases; 0 is the base.
        numbers: by a name with ``/`` between its parts; what a release does not tell is left out. Seconds are rounded as in
            the log.
        words: version, digest, verdict, phase, strategy.
    """

    version: str
    digest: str
    step: int
    numbers: Mapping[str, float]
    words: Mapping[str, str]


def measured(manifest: Manifest, cost: Cost | None) -> Measured:
    """All that trackers are told, which is no more than what the release says to everybody; ``cost`` where it is known."""
    privacy, federation = manifest.privacy, manifest.federation
    numbers = {
        **_metrics(manifest.metrics),
        "privacy/epsilon": privacy.epsilon_total if privacy else None,
        "privacy/epsilon_round": privacy.epsilon_round if privacy else None,
        "round/asked": len(federation.cohort),
        "round/accepted": len(federation.accepted),
        "round/refused": len(federation.refused),
        "round/released": manifest.verdict == "released",
        "round/seconds": round(cost.seconds, 3) if cost and cost.seconds is not None else None,
        "round/bytes_up": cost.bytes_up if cost else None,
        "round/bytes_down": cost.bytes_down if cost else None,
    }
    return Measured(
        version=manifest.version,
        digest=manifest.digest,
        step=manifest.round,
        numbers={name: float(value) for name, value in numbers.items() if value is not None},
        words={
            "version": manifest.version,
            "digest": manifest.digest,
            "verdict": manifest.verdict,
            "phase": manifest.phase,
            "strategy": federation.strategy,
        },
    )


def _metrics(metrics: MetricsFacts) -> dict[str, float | None]:
    """``mean/accuracy``, ``worst/accuracy``, ``server/accuracy``, ``site/amazon/accuracy`` ..."""
    groups: dict[str, Mapping[str, float]] = {
        "mean": metrics.mean,
        "worst": metrics.worst,
        "server": metrics.server,
        **{f"site/{_part(site)}": told for site, told in metrics.sites.items()},
    }
    return {f"{group}/{_part(name)}": value for group, told in groups.items() for name, value in told.items()}


def _part(name: str) -> str:
    """Sites choose the names of their metrics; a tracker makes files of them."""
    return _UNFIT.sub("_", name)
