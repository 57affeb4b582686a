"""Numbers that sites tell beside their update, checked before a rule divides by them.

Example::

    steps = told(updates, "steps", least=1.0, strategy="fednova")
"""

import math
from collections.abc import Sequence

from fedrelease.errors import RoundFailed
from fedrelease.update import Update

__all__ = ["told"]


def told(updates: Sequence[Update], metric: str, *, least: float, strategy: str) -> tuple[float, ...]:
    """What each site says of ``metric``, in the updates' order; each a finite number of at least ``least``.

    Raises:
        RoundFailed: a site does not say it, or says what cannot be true; the text names the site.
    """
    return tuple(_one(update, metric, least, strategy) for update in updates)


def _one(update: Update, metric: str, least: float, strategy: str) -> float:
    value = update.metrics.get(metric, math.nan)
    if not (math.isfinite(value) and value >= least):
        said = "does not tell its" if metric not in update.metrics else "tells what cannot be its"
        raise RoundFailed(
            f"{update.site} {said} {metric}",
            value=update.metrics.get(metric),
            rule=f"{strategy} needs {metric} of every site, a number of at least {least:g}",
            hint=f"update that site so that it tells its {metric}, or choose a strategy that does not need it: fedavg",
        )
    return value
