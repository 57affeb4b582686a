"""A site's noise multipliers, worked out once: every round and every process of a site needs the same one.

Example::

    noise = Calibrations(Path("sites/amazon"))(epsilon=8.0, delta=1e-5, sample_rate=0.1, steps=60)

What is kept only saves time. The ledger charges the noise that is truly used and refuses what goes over the budget, so a
multiplier that somebody altered can waste accuracy or end a plan early, but never overspend.
"""

import json
import math
from pathlib import Path

from fedrelease.files import Json, canonical_bytes, digest_bytes, write_durably
from fedrelease.noise import Rest, calibrate, stretches

__all__ = ["Calibrations"]

METHOD = 2
"""Part of each key: to be raised when :func:`fedrelease.noise.calibrate` changes what it finds."""


class Calibrations:
    """:func:`fedrelease.noise.calibrate` with a memory in a site's folder."""

    def __init__(self, home: Path) -> None:
        """Name the folder; it is made by the first multiplier."""
        self._folder = home / "calibrations"

    def __call__(
        self,
        *,
        epsilon: float,
        delta: float,
        sample_rate: float,
        steps: int,
        accountant: str = "prv",
        rest: Rest = (),
    ) -> float:
        """The noise multiplier, from memory where it is there and readable.

        Raises:
            PrivacyError: as :func:`fedrelease.noise.calibrate`.
        """
        plan: list[Json] = [sample_rate, steps]
        if rest:
            plan = [[list(stretch) for stretch in stretches(sample_rate, steps, rest)]]
        parts: list[Json] = [METHOD, epsilon, delta, *plan, accountant]
        path = self._folder / f"{digest_bytes(canonical_bytes(parts))[:32]}.json"
        known = _read(path)
        if known is not None:
            return known
        noise = calibrate(
            epsilon=epsilon, delta=delta, sample_rate=sample_rate, steps=steps, accountant=accountant, rest=rest
        )
        write_durably(path, json.dumps({"noise_multiplier": noise, "of": parts}).encode())
        return noise


def _read(path: Path) -> float | None:
    try:
        noise = json.loads(path.read_bytes())["noise_multiplier"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return noise if isinstance(noise, float) and math.isfinite(noise) and noise > 0 else None
