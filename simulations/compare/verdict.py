"""What a comparison shows: each variant's numbers, its difference to the baseline, and whether anybody won.

Example::

    found = judge(results, baseline="fedavg")
    found.sentence          # 'ffa-lora wins: +0.021 over fedavg (95 % interval 0.010 to 0.032), corrected p 0.004.'

Two families of tests, each corrected by Holm's step-down: every variant against a baseline that was named before anything ran
(the table), and every pair (the winner: whoever is best was not known before, so that all pairs count).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean

from fedrelease.errors import ExperimentError
from fedrelease.simulations.compare.plan import Plan
from fedrelease.simulations.compare.results import Finished, Results
from fedrelease.simulations.compare.statistics import (
    LEAST_SEEDS,
    LEVEL,
    MOST_SEEDS,
    Paired,
    cluster_interval,
    holm,
    mean_interval,
    paired_test,
    seeds_needed,
)

__all__ = ["Difference", "Line", "Verdict", "baseline_of", "judge"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One variant against another: by seed; and by seed and site, with seeds as clusters."""

    first: str
    second: str
    paired: Paired
    corrected: float | None
    clustered: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One variant of the table. Numbers are ``None`` where no run finished or sites keep them private.

    Attributes:
        accuracy, worst: final, mean over seeds. interval, worst_interval: of these means, 95 %.
        epsilon: the highest of its runs. bytes_total: of a run, mean over seeds. seconds: of a run's rounds, mean.
        against: the baseline; ``None`` for the baseline itself, or where they share no seed. worst_against: the same for the
            worst site of each seed; not corrected, since accuracy is what the verdict is about.
        failed: how many runs failed.
    """

    variant: str
    runs: int
    failed: int
    accuracy: float | None
    interval: tuple[float, float] | None
    worst: float | None
    worst_interval: tuple[float, float] | None
    epsilon: float | None
    bytes_total: float | None
    seconds: float | None
    against: Difference | None
    worst_against: Paired | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The table, best first, and the finding. ``winner`` is ``None`` unless its corrected test against every other says so.

    ``more_seeds``: how many more would decide it, at the observed spread; ``None`` if that is more than 100, or unknown.
    """

    baseline: str
    lines: tuple[Line, ...]
    pairs: tuple[Difference, ...]
    winner: str | None
    more_seeds: int | None
    sentence: str


def baseline_of(plan: Plan, named: str | None) -> str:
    """The named variant, else ``fedavg`` if it is there, else the first.

    Raises:
        ExperimentError: no variant has that name.
    """
    names = [variant.name for variant in plan.variants]
    if named is not None and named not in names:
        raise ExperimentError("no such variant", value=named, rule=f"--baseline is one of: {', '.join(names)}")
    return named or ("fedavg" if "fedavg" in names else names[0])


def judge(results: Results, *, baseline: str) -> Verdict:
    """All tests of a comparison. Runs that failed are missing from the pairs, and counted."""
    against = _family(results, [(name, baseline) for name in results.names() if name != baseline])
    pairs = _family(results, list(combinations(results.names(), 2)))
    lines = [_line(results, name, baseline, _find(against, name)) for name in results.names()]
    lines.sort(key=lambda line: (line.accuracy is None, -(line.accuracy or 0.0)))
    told = [line.variant for line in lines if line.accuracy is not None]
    ours = [_seen_from(told[0], pair) for pair in pairs if told and told[0] in (pair.first, pair.second)]
    winner = told[0] if len(ours) > 0 and len(ours) == len(told) - 1 and all(map(_won, ours)) else None
    more = None if winner or not ours else _more_seeds(results, ours, family=len(pairs))
    sentence = _sentence(lines, ours, winner, more)
    return Verdict(
        baseline=baseline, lines=tuple(lines), pairs=pairs, winner=winner, more_seeds=more, sentence=sentence
    )


def _family(results: Results, names: Sequence[tuple[str, str]]) -> tuple[Difference, ...]:
    """The differences of one family, corrected together; pairs that share no seed are left out."""
    found = [made for first, second in names if (made := _difference(results, first, second)) is not None]
    tested = [one.paired.p_value for one in found if one.paired.p_value is not None]
    corrected = iter(holm(tested))
    return tuple(
        Difference(
            first=one.first,
            second=one.second,
            paired=one.paired,
            corrected=None if one.paired.p_value is None else next(corrected),
            clustered=one.clustered,
        )
        for one in found
    )


def _difference(results: Results, first: str, second: str) -> Difference | None:
    paired = _paired(results.finals(first), results.finals(second))
    if paired is None:
        return None
    clusters = _clusters(results.by_site(first), results.by_site(second))
    return Difference(first=first, second=second, paired=paired, corrected=None, clustered=cluster_interval(clusters))


def _clusters(ours: Mapping[int, Mapping[str, float]], theirs: Mapping[int, Mapping[str, float]]) -> list[list[float]]:
    """Differences of each seed, one for each site that tells under both."""
    found = [
        [ours[seed][site] - theirs[seed][site] for site in sorted(ours[seed].keys() & theirs[seed].keys())]
        for seed in sorted(ours.keys() & theirs.keys())
    ]
    return [cluster for cluster in found if cluster]


def _line(results: Results, name: str, baseline: str, against: Difference | None) -> Line:
    runs = results.of(name)
    finals, worsts = list(results.finals(name).values()), list(results.worsts(name).values())
    done = [run for run in runs if run.last is not None]
    epsilons = [run.last.epsilon for run in done if run.last is not None and run.last.epsilon is not None]
    return Line(
        variant=name,
        runs=len(runs),
        failed=len(runs) - len(done),
        accuracy=mean(finals) if finals else None,
        interval=mean_interval(finals),
        worst=mean(worsts) if worsts else None,
        worst_interval=mean_interval(worsts),
        epsilon=max(epsilons, default=None),
        bytes_total=_mean_bytes(done),
        seconds=mean(run.seconds for run in done) if done else None,
        against=against,
        worst_against=None if name == baseline else _paired(results.worsts(name), results.worsts(baseline)),
    )


def _paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Paired | None:
    """The test over the seeds that both have."""
    seeds = sorted(ours.keys() & theirs.keys())
    return paired_test([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]) if seeds else None


def _mean_bytes(done: Sequence[Finished]) -> float | None:
    sizes = [run.bytes_total for run in done if run.bytes_total is not None]
    return mean(sizes) if sizes else None


def _find(family: Sequence[Difference], first: str) -> Difference | None:
    return next((one for one in family if one.first == first), None)


def _seen_from(name: str, pair: Difference) -> Difference:
    """The pair with ``name`` first."""
    if pair.first == name:
        return pair
    paired = pair.paired
    turned = Paired(
        seeds=paired.seeds,
        difference=-paired.difference,
        interval=_turned(paired.interval),
        p_value=paired.p_value,
        effect=None if paired.effect is None else -paired.effect,
    )
    return Difference(
        first=name, second=pair.first, paired=turned, corrected=pair.corrected, clustered=_turned(pair.clustered)
    )


def _turned(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (-interval[1], -interval[0])


def _won(pair: Difference) -> bool:
    return pair.corrected is not None and pair.corrected < 1 - LEVEL and pair.paired.difference > 0


def _more_seeds(results: Results, ours: Sequence[Difference], *, family: int) -> int | None:
    """Beyond those there are, so that each comparison that is open would be decided in the strictest step of the correction."""
    needed = []
    for pair in (pair for pair in ours if not _won(pair)):
        first, second = results.finals(pair.first), results.finals(pair.second)
        differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
        count = seeds_needed(differences, level=(1 - LEVEL) / family) if len(differences) >= LEAST_SEEDS else None
        if count is None:
            return None
        needed.append(count - len(differences))
    return max(1, *needed) if needed else None


def _sentence(lines: Sequence[Line], ours: Sequence[Difference], winner: str | None, more: int | None) -> str:
    told = [line for line in lines if line.accuracy is not None]
    if not told:
        return "Not decided: no run told an accuracy."
    if len(told) == 1 or not ours:
        return f"Not decided: only {told[0].variant} has runs to judge."
    if winner is not None:
        return _winning_sentence(winner, ours)
    nearest = min(ours, key=lambda pair: pair.paired.difference)
    lead = f"{told[0].variant} has the highest mean ({told[0].accuracy:.4f})"
    lead += f", {nearest.paired.difference:+.4f} against {nearest.second}"
    if nearest.paired.seeds < LEAST_SEEDS:
        return f"Not decided: {lead}; a test needs at least {LEAST_SEEDS} seeds."
    many = f"more than {MOST_SEEDS}" if more is None else f"about {more}"
    return f"Not decided: {lead}, but the test does not tell it from every other. {many.capitalize()} more seeds would."


def _winning_sentence(winner: str, ours: Sequence[Difference]) -> str:
    nearest = min(ours, key=lambda pair: pair.paired.difference)
    highest = max(pair.corrected or 0.0 for pair in ours)
    interval = nearest.paired.interval
    span = "" if interval is None else f" (95 % interval {interval[0]:+.4f} to {interval[1]:+.4f})"
    others = "the other" if len(ours) == 1 else f"each of the {len(ours)} others"
    margin = f"{nearest.paired.difference:+.4f} over {nearest.second}{span}"
    floor = "below 0.001" if highest < 0.001 else f"at most {math.ceil(highest * 1000) / 1000:.3f}"
    return f"{winner} wins against {others}: {margin}, corrected p {floor}."
