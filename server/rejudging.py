"""A release's gates once more, from what was kept when it was made: its answers item by item, its scores, its state.

Example::

    again = rejudge(store, store.find("0.1.3"))              # against what it was compared with then
    again.report.verdict, again.is_new                       # ('pass', False): the same report as the one that is kept
    rejudge(store, store.find("0.1.3"), others=compared_with(store))       # against what serves today
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fedrelease.errors import StoreError
from fedrelease.experiment import Experiment
from fedrelease.gate_choice import MEASURED, OF_ITEMS, make_rule
from fedrelease.gate_rules import GateRule
from fedrelease.growth import grown
from fedrelease.manifest import Manifest
from fedrelease.server.channels import CHANNELS
from fedrelease.server.gates import GateReport
from fedrelease.server.judging import Candidate, Measured, judge_against, reports_of, subject_of
from fedrelease.server.plan import planned_rounds
from fedrelease.server.release import Release, by_digest, experiment_of, is_of_one_form
from fedrelease.server.retired import retired_refusal
from fedrelease.server.retracted import is_rebuilt
from fedrelease.server.store import Store
from fedrelease.update import State

__all__ = ["Rejudged", "compared_then", "named", "rejudge", "rules_of", "training_refusals"]


@dataclass(frozen=True, kw_only=True)
class Rejudged:
    """A report, and whether no report of the release says the same already."""

    report: GateReport
    is_new: bool


def rejudge(
    store: Store,
    release: Release,
    *,
    others: Mapping[str, Release] | None = None,
    measured: Mapping[str, Measured] | None = None,
) -> Rejudged:
    """Ask the gates of the release's phase again; nothing is written.

    Args:
        others: what to compare with, by name; ``None`` for what its first report compared with.
        measured: by version; with it the gates of latency and memory are asked too.

    Guarantees: with neither, the report is the one that the round made, byte for byte.

    Raises:
        StoreError: the release is the base, or, without ``others``, no report of it is kept.
        DamagedRelease: what was kept is not what was released.
        RetiredRelease: what it is repeated with is gone by the rules of retention.
    """
    kept = reports_of(release)
    compared = compared_then(store, release) if others is None else others
    experiment = experiment_of(release)
    rules = {**rules_of(release.manifest, experiment), **{name: make_rule(name, {}) for name in MEASURED if measured}}
    judged = judge_against(
        _candidate(store, release),
        compared,
        rules,
        plan=experiment.privacy,
        store=store,
        looks=kept[0].looks if kept else 0,
        measured=measured,
    )
    report = judged.report(release.manifest)
    return Rejudged(report=report, is_new=report not in kept)


def rules_of(manifest: Manifest, experiment: Experiment) -> Mapping[str, GateRule]:
    """The gates of a release's phase; without those that need answers, where the release was rebuilt and nobody asked it.

    Raises:
        StoreError: it is the base, which belongs to no phase.
    """
    if manifest.round == 0:
        what = f"no gate looks at {manifest.version}: it is the base, before any round"
        raise StoreError(what, value=manifest.version, hint="name a release of a round: fedrelease log")
    rules = planned_rounds(experiment)[manifest.round - 1].phase.rules
    return {name: rule for name, rule in rules.items() if not (is_rebuilt(manifest) and name in OF_ITEMS)}


def compared_then(store: Store, release: Release) -> dict[str, Release]:
    """Name -> release that the first report about a release compared it with.

    Raises:
        StoreError: there is no report.
    """
    kept = reports_of(release)
    if not kept:
        rules_of(release.manifest, experiment_of(release))  # the base has none for a better reason
        raise StoreError(
            f"no gate report of {release.version} is kept",
            value=release.version,
            rule="its gates are repeated against what its report compared it with",
            hint=f"fedrelease gate {release.version} --now, or --against a version",
        )
    names = dict.fromkeys(finding.against for finding in kept[0].findings if finding.against)
    return {name: store.find(name.rpartition(" ")[2]) for name in names}


def named(store: Store, ref: str) -> dict[str, Release]:
    """The release behind a reference, as findings call it: ``stable 0.1.2`` by its channel, else ``release 0.1.2``."""
    release = store.find(ref)
    return {f"{ref if ref in CHANNELS else 'release'} {release.version}": release}


def training_refusals(manifest: Manifest) -> int:
    """Answers to training that do not count: sites of the cohort that are refused and not accepted."""
    accepted = {one.site for one in manifest.federation.accepted}
    refused = {one.site for one in manifest.federation.refused}
    return len((refused & set(manifest.federation.cohort)) - accepted)


def _candidate(store: Store, release: Release) -> Candidate:
    for entry in release.manifest.files:
        if (refusal := retired_refusal(store.folder, release.version, entry)) is not None:
            raise refusal
    kept = subject_of("", release)
    parent = by_digest(store.folder, release.manifest.parents[0])
    return Candidate(
        draft=release.manifest,
        state=release.state(),
        parent=parent,
        began=_began(parent, release),
        items=kept.items,
        scores=kept.scores,
        refused=training_refusals(release.manifest),
    )


def _began(parent: Release, release: Release) -> State:
    """What training started from. What new labels and adapters began with is kept nowhere: where it ended stands in for it."""
    same = is_of_one_form(parent, release)
    return parent.state() if same else grown(parent.state(), like=release.state())
