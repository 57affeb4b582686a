"""What a simulated site's training would take in the world, and what becomes of it; nobody waits.

Example::

    clock = Clock(experiment, rows_of=lambda site: 20, book=Path("releases.sites/virtual-time.csv"))
    fates = clock.ask("0.1.1", ["site-03", "site-17"], size_bytes=203_560)
    fates["site-03"].seconds, fates["site-17"].refused

A fate follows from the experiment's seed, the version and the site's name: a run that goes on, or is repeated, meets the same.
"""

import csv
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from fedrelease.client.schedule import steps_per_round
from fedrelease.experiment import Experiment

__all__ = ["Clock", "Fate"]

COLUMNS = ("version", "site", "seconds", "outcome")


@dataclass(frozen=True, kw_only=True)
class Fate:
    """One site in one round: virtual seconds from the question to the answer, or to its end; and why there is no answer."""

    seconds: float
    refused: str | None = None


class Clock:
    """The profiles of an experiment's sites, and the book of what they took."""

    def __init__(self, experiment: Experiment, *, rows_of: Callable[[str], int], book: Path) -> None:
        """``rows_of``: how many training rows a site has. ``book``: a CSV file, to which each question adds a line a site."""
        self._experiment, self._rows_of, self._book = experiment, rows_of, book

    def ask(self, version: str, sites: Sequence[str], *, size_bytes: int) -> Mapping[str, Fate]:
        """What becomes of each site that is sent a state of ``size_bytes`` and asked to train; written into the book."""
        fates = {site: self._fate(version, site, size_bytes) for site in sites}
        new, told = not self._book.exists(), self._told(version)
        with self._book.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            for site, fate in fates.items():
                if site not in told:
                    writer.writerow((version, site, f"{fate.seconds:.3f}", fate.refused or "in time"))
        return fates

    def _told(self, version: str) -> set[str]:
        """The sites that the book has in this round: a run that goes on asks again who was refused."""
        if not self._book.exists():
            return set()
        with self._book.open(encoding="utf-8", newline="") as file:
            return {line["site"] for line in csv.DictReader(file) if line["version"] == version}

    def _fate(self, version: str, site: str, size_bytes: int) -> Fate:
        profile = self._experiment.virtual_time
        if self._share(version, site, "there") >= profile.availability:
            return Fate(seconds=0.0, refused="not available")
        seconds = self.seconds(site, size_bytes)
        broken_off = self._share(version, site, "breaks off")
        if broken_off < profile.dropout:
            return Fate(seconds=seconds * broken_off / profile.dropout, refused="broke off")
        if profile.deadline_s is not None and seconds > profile.deadline_s:
            late = f"no answer within {profile.deadline_s:g} virtual s, it would have taken {seconds:.1f}"
            return Fate(seconds=profile.deadline_s, refused=late)
        return Fate(seconds=seconds)

    def seconds(self, site: str, size_bytes: int) -> float:
        """How long a site is under way with a state of this size: there, training, and back."""
        profile, training = self._experiment.virtual_time, self._experiment.training
        rows, private = self._rows_of(site), self._experiment.privacy.unit != "none"
        examples = steps_per_round(rows, training, private=private) * min(training.batch_size, rows)
        seconds = examples / (profile.examples_per_s or math.inf) / self._factor(site, "speed")
        if profile.mbit_per_s is not None:
            seconds += 2 * size_bytes * 8e-6 / profile.mbit_per_s / self._factor(site, "line")
        return seconds

    def _factor(self, site: str, what: str) -> float:
        """How many times the middle site's: log-normal over sites, the same in every round."""
        share = min(max(self._share("", site, what), 1e-12), 1 - 1e-12)
        return math.exp(self._experiment.virtual_time.spread * NormalDist().inv_cdf(share))

    def _share(self, version: str, site: str, what: str) -> float:
        """A number in [0, 1) that depends on these, and on the seed, only."""
        text = f"{self._experiment.federation.seed}\x1f{version}\x1f{site}\x1f{what}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
