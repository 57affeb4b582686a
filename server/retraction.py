"""Rebuild the line of releases without a site's updates, from the spools that were kept.

Example::

    with store.lock():
        done = retract(store, "north", by=By(actor="ada", reason="it asked to leave"))
    done.rebuilt                                             # (('0.1.1', '0.1.3'), ('0.1.2', '0.1.4')): replaced, new
    done.serving                                             # {'stable': '0.1.2'}: still what has its updates in it

Every round from the first one that accepted an update of the site is computed again, each from the rebuilt one before it, and
published above the head: versions only rise, and nothing that was released changes.

This takes the site's own updates out of the sums. Other sites trained from releases that had them in; what they learned from
those is still in their updates, so that it is no unlearning. Privacy that was spent stays spent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fedrelease.errors import FedreleaseError, StoreError
from fedrelease.growth import grown_with_zeros
from fedrelease.manifest import FileEntry, Manifest, MetricsFacts, PrivacyFacts, Refused, parse_version
from fedrelease.server.aggregating import aggregate, kept_round, memory_for
from fedrelease.server.beginnings import Beginnings
from fedrelease.server.channels import Pointer
from fedrelease.server.going_on import parent_of, unfinished_retraction
from fedrelease.server.journal import entry_for
from fedrelease.server.judging import Candidate, attach_report, compared_with, judge_against
from fedrelease.server.lifecycle import By
from fedrelease.server.publishing import environment_of
from fedrelease.server.recompute import Kept, kept_updates, strategy_of
from fedrelease.server.rejudging import rules_of, training_refusals
from fedrelease.server.release import Release, by_digest, experiment_of
from fedrelease.server.retired import retirements, updates_record
from fedrelease.server.retracted import FILE, Retraction, retraction_bytes, retraction_of
from fedrelease.server.store import Store
from fedrelease.strategies import Strategy
from fedrelease.update import State, StateFile, Update, state_bytes

__all__ = ["Retracted", "retract"]


@dataclass(frozen=True, kw_only=True)
class Retracted:
    """What a retraction did.

    Attributes:
        sites: whose updates the new line is without; those of earlier retractions too.
        rebuilt: version that is replaced, and the new one, oldest first.
        head: the end of the new line. held: those of the new line that are held.
        serving: channel -> version that it still points at, of those with an update of the site in them.
    """

    sites: tuple[str, ...]
    rebuilt: tuple[tuple[str, str], ...]
    head: str
    held: tuple[str, ...]
    serving: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One release to rebuild, and what from."""

    release: Release
    updates: tuple[Update, ...]
    strategy: Strategy


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """All that follows from the store before anything is written. ``before``: where the first step starts."""

    sites: tuple[str, ...]
    line: Release
    steps: tuple[_Step, ...]
    before: Release
    by: By
    known: tuple[tuple[str, str], ...]
    beginnings: Beginnings

    def began(self, step: _Step, parent: Release) -> State:
        """What the step starts from: its rebuilt parent's state, grown as its round grew it."""
        return dict(self.beginnings.states(step.release)(parent))


def retract(store: Store, site: str, *, by: By, beginnings: Beginnings | None = None) -> Retracted:
    """Publish the line again without a site's updates; no channel moves. The caller holds the store's lock.

    Rounds that added something need their base, which ``beginnings`` finds.

    Guarantees: every round is computed before the first release is published. A retraction that was killed in between is finished
    by the same call, and until then no round goes on.

    Raises:
        StoreError: no release has an update of the site; or the spool of a round is missing; or a round cannot do without it.
        ModelError: a round added something, and the base is not here.
    """
    plan = _plan(store, site, by, beginnings or Beginnings(None))
    files = tuple(_computed(store, plan))
    made, parent = list(plan.known), plan.before
    for step, kept in zip(plan.steps, files, strict=True):
        parent = _publish(store, plan, step, kept, parent)
        made.append((step.release.version, parent.version))
    new = [store.find(version) for _, version in made]
    return Retracted(
        sites=plan.sites,
        rebuilt=tuple(made),
        head=parent.version,
        held=tuple(release.version for release in new if release.manifest.verdict == "held"),
        serving=_serving(store, plan.line, made[0][0]),
    )


def _plan(store: Store, site: str, by: By, beginnings: Beginnings) -> _Plan:
    head = store.head()
    if head is None:
        raise StoreError("the store has no release yet", value=site, hint="fedrelease simulate")
    begun, known = unfinished_retraction(store), tuple[tuple[str, str], ...]()
    if begun is None:
        line = parent_of(store, experiment_of(head))
        sites = tuple(sorted({*_gone(line), site}))
        todo, before = _affected(line, site)
    else:
        _check_same(begun, site)
        line, sites, by = (
            by_digest(store.folder, begun.line.digest),
            begun.sites,
            replace(by, actor=begun.actor, reason=begun.reason),
        )
        todo, before, known = _rest(store, begun, line)
    steps = _steps(store, todo, sites)
    return _Plan(sites=sites, line=line, steps=steps, before=before, by=by, known=known, beginnings=beginnings)


def _lineage(line: Release) -> list[Release]:
    """The release and all that it came from, oldest first."""
    found = [line]
    while found[-1].manifest.parents:
        found.append(by_digest(line.root, found[-1].manifest.parents[0]))
    return found[::-1]


def _gone(line: Release) -> tuple[str, ...]:
    told = (retraction_of(release) for release in reversed(_lineage(line)))
    return next((one.sites for one in told if one is not None), ())


def _affected(line: Release, site: str) -> tuple[list[Release], Release]:
    """From the first release with an update of the site on, and the one before that."""
    lineage = _lineage(line)
    having = [at for at, release in enumerate(lineage) if site in _sites(release)]
    if not having:
        every = sorted({one for release in lineage for one in _sites(release)})
        raise StoreError(
            f"no release on the line of {line.version} has an update of {site}",
            value=site,
            rule=f"sites with updates in it: {', '.join(every) or 'none'}",
            hint="check the spelling; fedrelease show VERSION lists who took part",
        )
    return lineage[having[0] :], lineage[having[0] - 1]


def _sites(release: Release) -> set[str]:
    return {one.site for one in release.manifest.federation.accepted}


def _check_same(begun: Retraction, site: str) -> None:
    if site not in begun.sites:
        raise StoreError(
            "another retraction was interrupted",
            value=", ".join(begun.sites),
            rule="one at a time",
            hint=f"fedrelease retract {begun.sites[-1]}: it goes on where it stopped; then this one",
        )


def _rest(store: Store, begun: Retraction, line: Release) -> tuple[list[Release], Release, tuple[tuple[str, str], ...]]:
    """What a retraction that was interrupted had yet to do, where it stopped, and what it had done."""
    told = [(release, retraction_of(release)) for release in store.releases()]
    done = [(release, one) for release, one in told if one is not None and one.line == begun.line]
    replaced = {one.replaces.digest for _, one in done}
    lineage = _lineage(line)
    first = next(at for at, release in enumerate(lineage) if release.digest in replaced)
    todo = [release for release in lineage[first:] if release.digest not in replaced]
    return todo, done[-1][0], tuple((one.replaces.version, release.version) for release, one in done)


def _steps(store: Store, todo: Sequence[Release], sites: Sequence[str]) -> tuple[_Step, ...]:
    found = {release.version: kept_updates(store, release) for release in todo}
    if missing := [version for version, kept in found.items() if kept is None]:
        gone = updates_record(retirements(store.folder), missing[0])
        raise StoreError(
            f"the updates of {', '.join(missing)} were {f'retired on {gone.time[:10]}' if gone else 'not kept'}",
            value=", ".join(sites),
            rule="a line is rebuilt from the updates of all its rounds",
            hint="federation.keep_updates = true keeps those of a new store; here, promote a release from before the site joined",
        )
    return tuple(_step(store, release, kept, sites) for release in todo if (kept := found[release.version]) is not None)


def _step(store: Store, release: Release, kept: Kept, sites: Sequence[str]) -> _Step:
    federation = release.manifest.federation
    ran = kept_round(store.folder / "spool" / _ran(release).version)
    strategy = strategy_of(federation, kept, ran.eligible if ran else None)
    updates = tuple(update for update in kept.updates if update.site not in sites)
    cohort = len(federation.cohort)
    if strategy.waits_for(cohort) < cohort:
        raise StoreError(
            f"{release.version} was made by {federation.strategy}, which does not wait for all sites",
            value=federation.strategy,
            rule="its sites began from older releases, which a rebuilt line does not have",
        )
    if len(updates) < strategy.least:
        raise StoreError(
            f"{release.version} cannot be rebuilt: {len(updates)} updates are left",
            value=", ".join(sites),
            rule=f"{federation.strategy} with its knobs needs at least {strategy.least}",
            hint="promote a release from before the site joined",
        )
    return _Step(release=release, updates=updates, strategy=strategy)


def _ran(release: Release) -> Pointer:
    """The release of the round that was run."""
    told = retraction_of(release)
    return told.round if told else Pointer(version=release.version, digest=release.digest)


def _computed(store: Store, plan: _Plan) -> Iterator[tuple[FileEntry, ...]]:
    """The files of each step that it computes; they lie in the store, of no release yet."""
    parent = plan.before
    for step in plan.steps:
        began, name = plan.began(step, parent), step.release.manifest.federation.strategy
        memory = memory_for(name, parent.manifest.federation.strategy, parent.memory())
        try:
            found, kept = aggregate(
                step.strategy, began, step.updates, grown_with_zeros(memory, like=began), version=step.release.version
            )
        except FedreleaseError as error:
            raise StoreError(
                f"{step.release.version} cannot be rebuilt without {', '.join(plan.sites)}: {error.what}",
                value=error.value,
                rule=error.rule,
            ) from error
        files = [_put(store, "adapter.safetensors", "adapter", state_bytes(found))]
        files += [_put(store, "memory.safetensors", "memory", state_bytes(kept))] if kept else []
        yield tuple(files)
        parent = replace(step.release, manifest=replace(step.release.manifest, files=tuple(files)))


def _put(store: Store, path: str, role: str, data: bytes) -> FileEntry:
    return FileEntry(path=path, sha256=store.put_blob(data), size=len(data), role=role)


def _publish(store: Store, plan: _Plan, step: _Step, files: Sequence[FileEntry], parent: Release) -> Release:
    """One release above the head. Nobody has looked at it: gates that need answers are not asked."""
    manifest = _manifest(store, plan, step, files, parent)
    state: State = StateFile(store.blob_path(files[0].sha256))
    experiment = experiment_of(step.release)
    candidate = Candidate(
        draft=manifest,
        state=state,
        parent=parent,
        began=plan.began(step, parent),
        items=None,
        scores=None,
        refused=training_refusals(manifest),
    )
    rules = rules_of(manifest, experiment)
    judged = judge_against(candidate, compared_with(store), rules, plan=experiment.privacy, store=store, looks=0)
    held = "held" in (judged.verdict, step.release.manifest.verdict)
    manifest = replace(manifest, verdict="held" if held else "released")
    report = judged.report(manifest)
    attach_report(store, report)
    reason = f"rebuilds {step.release.version} without {', '.join(plan.sites)}"
    reason += f": {plan.by.reason}" if plan.by.reason else ""
    reason += f"; {report.sentence}" if judged.verdict == "held" else "; that was held" if held else ""
    entry = replace(entry_for(manifest, channels=(), time=plan.by.time, reason=reason), actor=plan.by.actor)
    return store.publish(manifest, entry, moves=False)


def _manifest(store: Store, plan: _Plan, step: _Step, files: Sequence[FileEntry], parent: Release) -> Manifest:
    """What the replaced release says, but for who counts, what it is made of, and metrics, which nobody has taken."""
    old, experiment = step.release.manifest, experiment_of(step.release)
    kept = [entry for entry in old.files if entry.path in ("rng.json", "experiment.toml")]
    counted = {update.site for update in step.updates}
    gone = [Refused(site=one.site, reason="retracted") for one in old.federation.accepted if one.site not in counted]
    federation = replace(
        old.federation,
        accepted=tuple(one for one in old.federation.accepted if one.site in counted),
        refused=tuple(sorted((*old.federation.refused, *gone), key=lambda one: one.site)),
    )
    return replace(
        old,
        version=_next_version(store),
        verdict="released",
        parents=(parent.digest,),
        files=(*files, *kept, _told(store, plan, step)),
        federation=federation,
        privacy=_privacy(store, old.privacy),
        metrics=MetricsFacts(),
        environment=environment_of(experiment),
    )


def _next_version(store: Store) -> str:
    head = store.head()
    above = parse_version(head.version if head else "0.0.0")
    return f"{above.major}.{above.minor}.{above.patch + 1}"


def _told(store: Store, plan: _Plan, step: _Step) -> FileEntry:
    told = Retraction(
        sites=plan.sites,
        replaces=Pointer(version=step.release.version, digest=step.release.digest),
        round=_ran(step.release),
        line=Pointer(version=plan.line.version, digest=plan.line.digest),
        actor=plan.by.actor,
        reason=plan.by.reason,
    )
    return _put(store, FILE, "doc", retraction_bytes(told))


def _privacy(store: Store, old: PrivacyFacts | None) -> PrivacyFacts | None:
    """What was spent stays spent, until the newest release."""
    head = store.head()
    if old is None or head is None or head.manifest.privacy is None:
        return old
    return replace(old, epsilon_total=max(old.epsilon_total, head.manifest.privacy.epsilon_total))


def _serving(store: Store, line: Release, first: str) -> dict[str, str]:
    """Channels that point at a release of the old line, from the first that was replaced on."""
    versions = [release.version for release in _lineage(line)]
    having = set(versions[versions.index(first) :])
    pointers = store.channels().channels
    return {name: pointer.version for name, pointer in sorted(pointers.items()) if pointer.version in having}
