"""The plan of rounds: which version comes next, from which phase, with which sites.

Example::

    plan = planned_rounds(experiment)
    [(round.version, round.number) for round in plan]          # [('0.1.1', 1), ('0.1.2', 2), ('0.2.1', 3)]
    cohort(plan[0], sites=("amazon", "movie"), seed=7)
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment, Federation, Phase
from fedrelease.label_plan import majors
from fedrelease.manifest import parse_version
from fedrelease.population import Population

__all__ = [
    "BASE_VERSION",
    "PlannedRound",
    "check_named",
    "cohort",
    "eligible",
    "evaluators",
    "planned_rounds",
    "rounds_after",
]

MOST_NAMED = 50

BASE_VERSION = "0.0.0"


@dataclass(frozen=True, kw_only=True)
class PlannedRound:
    """One round of the plan: ``number`` counts through all phases, from 1."""

    version: str
    number: int
    phase: Phase


def planned_rounds(experiment: Experiment) -> tuple[PlannedRound, ...]:
    """All rounds. MAJOR of a version is how often labels were added or the adapter grew, in one phase or in two; MINOR is the
    phase, PATCH the round in it, both from 1.
    """
    forms = [adapter.form for adapter in experiment.phase_adapters]
    major = majors(list(zip(experiment.phase_labels, forms, strict=True)))
    places = [
        (f"{major[place]}.{place + 1}.{patch}", phase)
        for place, phase in enumerate(experiment.phases)
        for patch in range(1, phase.rounds + 1)
    ]
    return tuple(
        PlannedRound(version=version, number=number, phase=phase) for number, (version, phase) in enumerate(places, 1)
    )


def rounds_after(plan: Sequence[PlannedRound], released: Sequence[str], done: int) -> tuple[PlannedRound, ...]:
    """The rounds after number ``done``, each under the version that it is due: PATCH goes on above what is released.

    A retraction publishes a line again, under PATCH numbers that rounds would have had; where there was none, versions are the
    plan's own.
    """
    return tuple(_above(planned, plan, released, done) for planned in plan if planned.number > done)


def _above(planned: PlannedRound, plan: Sequence[PlannedRound], released: Sequence[str], done: int) -> PlannedRound:
    own = parse_version(planned.version)
    taken = [parse_version(version) for version in released]
    highest = max((one.patch for one in taken if one[:2] == own[:2]), default=0)
    ran = [parse_version(one.version) for one in plan if one.number <= done]
    expected = max((one.patch for one in ran if one[:2] == own[:2]), default=0)
    extra = max(0, highest - expected)
    return replace(planned, version=f"{own.major}.{own.minor}.{own.patch + extra}") if extra else planned


def eligible(phase: Phase, sites: Sequence[str]) -> Sequence[str]:
    """The sites that a phase may ask to train, sorted.

    Raises:
        ExperimentError: it names one that is not there.
    """
    unknown = sorted(site for site in phase.sites if site not in sites)
    if unknown:
        raise ExperimentError(
            f"phase {phase.name} names sites that are not there",
            value=", ".join(unknown),
            rule=f"phase.sites are some of {_named(sites)}",
            hint="check the spelling, or leave sites out to ask all",
        )
    return tuple(sorted(phase.sites)) if phase.sites else sites


def check_named(ranks: Mapping[str, int], *, sites: Sequence[str]) -> None:
    """Refuse ranks of sites that are not there.

    Raises:
        ExperimentError: the text names them.
    """
    unknown = sorted(site for site in ranks if site not in sites)
    if unknown:
        raise ExperimentError(
            "model.adapter.site_ranks names sites that are not there",
            value=", ".join(unknown),
            rule=f"its sites are some of {_named(sites)}",
            hint="check the spelling, or leave them out",
        )


def _named(sites: Sequence[str]) -> str:
    more = ["..."] if len(sites) > MOST_NAMED else []
    return ", ".join([*sorted(sites[:MOST_NAMED]), *more])


def _count(wanted: float | int, sites: Sequence[str]) -> int:
    return max(1, math.ceil(wanted * len(sites))) if isinstance(wanted, float) else wanted


def _chosen(count: int, sites: Sequence[str], key: str) -> tuple[str, ...]:
    """Sites by a hash of key and name, or a draw of numbers where there are too many to look at each; sorted."""
    if isinstance(sites, Population):
        return sites.draw(count, key=key)

    def rank(site: str) -> bytes:
        return hashlib.sha256(f"{key}\x1f{site}".encode()).digest()

    return tuple(sorted(sorted(sites, key=rank)[:count]))


def evaluators(federation: Federation, version: str, sites: Sequence[str]) -> Sequence[str]:
    """The sites that look at a candidate, sorted: all, or as many as ``federation.evaluators`` says, others for each version."""
    wanted = federation.evaluators
    if wanted == 0 or (isinstance(wanted, float) and wanted == 1.0):
        return sites if wanted else ()
    count = min(len(sites), _count(wanted, sites))
    return _chosen(count, sites, f"{federation.seed}\x1f{version}\x1fevaluate")


def cohort(planned: PlannedRound, *, sites: Sequence[str], seed: int) -> tuple[str, ...]:
    """The sites of a round, sorted: those whose hash of (seed, version, name) is smallest; of a population, a draw of numbers.

    It depends on the set of names only, never on arrival or on earlier rounds, so that a resumed run asks the same sites.

    Raises:
        ExperimentError: the phase wants more sites than there are.
    """
    wanted, sites = planned.phase.sites_per_round, eligible(planned.phase, sites)
    count = _count(wanted, sites)
    if count > len(sites):
        raise ExperimentError(
            f"phase {planned.phase.name} wants more sites than there are",
            value=wanted,
            rule=f"sites_per_round is at most {len(sites)}, or a share such as 0.5",
            hint="lower phase.sites_per_round, or bring more sites",
        )

    return _chosen(count, sites, f"{seed}\x1f{planned.version}")
