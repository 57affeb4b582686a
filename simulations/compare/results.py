"""What the runs of a comparison came to, read from their stores; as lines, and as numbers by variant and seed.

Example::

    results = Results(plan=plan, runs=tuple(read_run(run, out) for run in plan.runs()))
    results.finals("fedavg")                                     # {7: 0.81, 8: 0.83}
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrelease.files import Json
from fedrelease.server.plan import planned_rounds
from fedrelease.server.store import Store
from fedrelease.simulations.compare.plan import Plan, Run
from fedrelease.simulations.compare.spaces import Value
from fedrelease.simulations.report import Row, summary_rows

__all__ = ["Finished", "Results", "Trial", "best_of", "read_run"]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """One run: its releases, oldest first, with their digests; or how far it came, and why no further.

    ``backdoor``: how well the comparison's backdoor took in the last release, where that was looked at.
    """

    run: Run
    rows: tuple[Row, ...]
    digests: tuple[str, ...]
    failed: str | None = None
    backdoor: float | None = None

    @property
    def last(self) -> Row | None:
        """The final release; ``None`` for a run that failed."""
        return self.rows[-1] if self.rows and self.failed is None else None

    @property
    def bytes_total(self) -> int | None:
        """From and to the sites in all rounds; ``None`` where a crash lost a number."""
        return _total([row.bytes_up for row in self.rows] + [row.bytes_down for row in self.rows])

    @property
    def seconds(self) -> float:
        """Of all rounds, as far as they are known."""
        return sum(row.seconds or 0.0 for row in self.rows)

    def lines(self) -> Iterator[dict[str, Json]]:
        """One document a release, and a last one with the reason if the run failed."""
        about: dict[str, Json] = {"variant": self.run.variant.name, "seed": self.run.seed}
        for row, digest in zip(self.rows, self.digests, strict=True):
            yield {
                **about,
                "round": row.round,
                "version": row.version,
                "digest": digest,
                "accuracy": row.accuracy,
                "sites": dict(row.sites),
                "worst_site": row.worst_site,
                "worst_accuracy": row.worst_accuracy,
                "epsilon": row.epsilon,
                "bytes_up": row.bytes_up,
                "bytes_down": row.bytes_down,
                "seconds": row.seconds,
                "failed": None,
            }
        if self.failed is not None:
            empty = ("version", "digest", "accuracy", "worst_site", "worst_accuracy", "epsilon")
            spent: dict[str, Json] = {"bytes_up": None, "bytes_down": None, "seconds": None}
            round_: dict[str, Json] = {"round": len(self.rows), "sites": {}}
            yield {**about, **round_, **dict.fromkeys(empty), **spent, "failed": self.failed}


def _total(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def read_run(run: Run, out: Path, *, failed: str | None = None) -> Finished:
    """What lies in the store of a run. Without a reason in ``failed``, a plan that is not at its end counts as not finished."""
    folder = run.store(out)
    if not (folder / "store.json").exists():
        return Finished(run=run, rows=(), digests=(), failed=failed or "it has not run")
    store = Store.open(folder)
    rows, digests = summary_rows(store), {release.version: release.digest for release in store.releases()}
    if failed is None and (not rows or rows[-1].version != planned_rounds(run.experiment)[-1].version):
        failed = "it is not finished"
    return Finished(run=run, rows=rows, digests=tuple(digests[row.version] for row in rows), failed=failed)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a search: the values that it tried, and what they came to; ``objective`` is ``None`` if it failed."""

    finished: Finished
    values: Mapping[str, Value]
    objective: float | None

    @property
    def run(self) -> Run:
        """Which run it is."""
        return self.finished.run


def best_of(trials: Sequence[Trial], variant: str) -> Trial | None:
    """The variant's trial with the highest objective, the first of equals; ``None`` if all of its trials failed."""
    told = [trial for trial in trials if trial.run.variant.name == variant and trial.objective is not None]
    return max(told, key=lambda trial: trial.objective or 0.0, default=None)


@dataclass(frozen=True, kw_only=True)
class Results:
    """All runs of a plan, in its order.

    Attributes:
        plan: with the values that a search has chosen.
        trials: of the search; none without one. search_epsilon: what they would have cost the site that they cost most.
    """

    plan: Plan
    runs: tuple[Finished, ...]
    trials: tuple[Trial, ...] = ()
    search_epsilon: float | None = None

    def of(self, variant: str) -> tuple[Finished, ...]:
        """The runs of one variant, by seed."""
        return tuple(one for one in self.runs if one.run.variant.name == variant)

    def failures(self) -> tuple[Finished, ...]:
        """The runs without a final release."""
        return tuple(one for one in self.runs if one.failed is not None)

    def names(self) -> tuple[str, ...]:
        """All variants, in the order typed."""
        return tuple(variant.name for variant in self.plan.variants)

    def finals(self, variant: str) -> dict[int, float]:
        """Final accuracy (mean of sites, else the server's hold-out) by seed, of runs that finished and tell it."""
        lasts = {one.run.seed: one.last for one in self.of(variant)}
        return {seed: row.accuracy for seed, row in lasts.items() if row is not None and row.accuracy is not None}

    def worsts(self, variant: str) -> dict[int, float]:
        """Final accuracy of the worst site by seed."""
        lasts = {one.run.seed: one.last for one in self.of(variant)}
        return {
            seed: row.worst_accuracy
            for seed, row in lasts.items()
            if row is not None and row.worst_accuracy is not None
        }

    def by_site(self, variant: str) -> dict[int, Mapping[str, float]]:
        """Final accuracy of each site by seed."""
        return {one.run.seed: one.last.sites for one in self.of(variant) if one.last is not None}
