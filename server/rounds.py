"""The round: cohort, train, screen, spool, aggregate, evaluate, publish; then the next one. Knows nothing of Flower.

Example::

    run_rounds(Setting(experiment=experiment, store=store, sites=sites, base=base, ...))

Resuming is opening the store and going on: the newest release is the checkpoint, and updates in the spool are not asked for
again.
"""

import time
from collections.abc import Callable, Collection, Sequence
from functools import cache, partial

from fedrelease.adapter import Adapter
from fedrelease.downlink import narrowed
from fedrelease.errors import EngineError, ExperimentError, ModelError, RoundFailed
from fedrelease.experiment import Experiment, StrategyChoice
from fedrelease.growth import grown, grown_with_zeros
from fedrelease.label_plan import Labels
from fedrelease.messages import Request
from fedrelease.server.aggregating import KeptRound, aggregate, keep_round, memory_for, shown_to
from fedrelease.server.arrivals import StateOf, arrivals, as_arrived, check_times, starts
from fedrelease.server.events import MemoryBegins, Opened, Released, RoundStarted
from fedrelease.server.gather import Evaluated, Setting, gather_evaluations, gather_updates, needed
from fedrelease.server.going_on import parent_of, rounds_left, without_retracted
from fedrelease.server.journal import LogEntry, utc_now
from fedrelease.server.judging import report_of
from fedrelease.server.plan import (
    BASE_VERSION,
    PlannedRound,
    check_named,
    cohort,
    eligible,
    planned_rounds,
)
from fedrelease.server.publishing import Cost, Outcome, publish
from fedrelease.server.release import Release
from fedrelease.server.spool import Spool, sweep_spools
from fedrelease.server.store import Store
from fedrelease.server.stragglers import is_late
from fedrelease.server.tracing import span
from fedrelease.strategies import Strategy, check_adapter, check_strategy, check_transport, make_strategy
from fedrelease.strategies.averaging import weights_of
from fedrelease.strategies.lora import residuals
from fedrelease.update import State, Update, forget_open_files, state_bytes

__all__ = ["run_rounds", "states_of", "sweep_finished"]

MOST_NAMED = 4
REASONS_SHOWN = 12
DECIMALS = 6
"""Of a residual: rounding of float32 factors is not told, so that an exact rule's is 0."""


def run_rounds(setting: Setting) -> None:
    """Go on from the store's head to the end of the plan. The caller holds the store's lock.

    Raises:
        ExperimentError: a phase wants more sites than there are, or fewer than its strategy needs, or a strategy that does not
            exist; nobody was asked.
        RoundFailed: a round's quorum was not reached, or its aggregate is no state; the log has a line about it, the store
            stands at the release before it, and the updates that were accepted stay in the spool.
    """
    head, plan = setting.store.head(), planned_rounds(setting.experiment)
    todo, everybody = rounds_left(setting.store, setting.experiment), setting.sites.names()
    setting = without_retracted(setting) if todo else setting
    setting.watch(
        Opened(
            head=head.version if head else None,
            resumed=head is not None,
            sites=setting.sites.names(),
            rounds=len(plan),
            rounds_done=len(plan) - len(todo),
        )
    )
    for planned in todo:  # a plan that cannot be carried out must not cost anybody anything
        _check_plan(setting, planned)
    for adapter in setting.experiment.phase_adapters:
        check_named(adapter.site_ranks, sites=everybody)
    _check_adapters(setting, todo)
    sweep_finished(setting.store, setting.experiment)
    if head is None:
        _publish_base(setting)
    for planned in todo:
        try:
            with span("round", version=planned.version, round=planned.number, phase=planned.phase.name):
                _run_round(setting, planned, parent_of(setting.store, setting.experiment))
        except RoundFailed as error:
            _record(setting, planned, error)
            raise
        finally:
            forget_open_files()


def sweep_finished(store: Store, experiment: Experiment) -> None:
    """Tidy the spool after a killed run, of rounds whose release is out too. The caller is the store's only writer."""
    unfinished = frozenset(planned.version for planned in rounds_left(store, experiment))
    sweep_spools(store.folder / "spool", unfinished=unfinished, keep=experiment.federation.keep_updates)


def _check_plan(setting: Setting, planned: PlannedRound) -> None:
    check_strategy(planned.phase.strategy, setting.experiment.privacy)
    check_adapter(planned.phase.strategy, setting.experiment.adapter_at(planned.number))
    check_transport(planned.phase.strategy, setting.experiment.transport)
    strategy = _strategy(setting, planned)
    asked = cohort(planned, sites=setting.sites.names(), seed=setting.experiment.federation.seed)
    if len(asked) < strategy.least:
        raise ExperimentError(
            f"phase {planned.phase.name} asks fewer sites than {planned.phase.strategy.name} can work with",
            value=len(asked),
            rule=f"{planned.phase.strategy.name} with these knobs needs at least {strategy.least} sites in each round",
            hint="raise phase.sites_per_round, or choose a strategy that needs fewer, such as fedavg",
        )
    check_times(setting, planned, strategy, asked)
    if planned.phase.reverts and strategy.waits_for(len(asked)) < len(asked):
        raise ExperimentError(
            f"phase {planned.phase.name} reverts, and {planned.phase.strategy.name} does not wait for all sites",
            value="on_held = revert",
            rule="sites that are under way began from releases that a revert would leave aside",
            hint='on_held = "continue", or a strategy that waits, such as fedavg',
        )


def _check_adapters(setting: Setting, todo: Sequence[PlannedRound]) -> None:
    """Refuse adapters to come that the base has no place for, or that lack a tensor of the one before: only the base can tell."""
    experiment = setting.experiment
    for planned in todo:
        forms = [experiment.adapter_at(round).form for round in (planned.number - 1, planned.number)]
        if forms[0] == forms[1]:
            continue
        before, after = setting.initial(planned.number - 1), _begun_with(setting, planned)
        if gone := sorted(before.keys() - after.keys()):
            raise ExperimentError(
                f"the adapter of phase {planned.phase.name} leaves out what the one before has learned",
                value=", ".join(gone[:MOST_NAMED]),
                rule=f"its targets, {forms[1].targets}, have all modules that {forms[0].targets} means on this base",
                hint='name them too, with commas, or set targets = "all-linear"',
            )


def _begun_with(setting: Setting, planned: PlannedRound) -> State:
    """The state that training would start from in a round whose adapter is new."""
    try:
        return setting.initial(planned.number)
    except (EngineError, ModelError) as error:
        raise ExperimentError(
            f"the base has no place for the adapter of phase {planned.phase.name}",
            value=", ".join(f"{key} = {value}" for key, value in planned.phase.adapter.given.items()),
            rule=" ".join(part for part in (error.what, f"({error.value})" if error.value else "", error.rule) if part),
            hint="change these keys of phase.adapter: layers and targets that the base has, and no rank above its widths",
        ) from error


def _strategy(setting: Setting, planned: PlannedRound) -> Strategy:
    return make_strategy(planned.phase.strategy).among(len(eligible(planned.phase, setting.sites.names())))


def _publish_base(setting: Setting) -> Release:
    """Version 0.0.0: the base with an adapter that changes nothing yet, evaluated everywhere."""
    begun = time.monotonic()
    state = setting.initial(0)
    request = _request(setting, BASE_VERSION, 0)
    outcome = Outcome(
        version=BASE_VERSION,
        phase=None,
        round=0,
        strategy=StrategyChoice(name="none"),
        parent=None,
        began=state,
        state=state,
        memory={},
        cohort=(),
        updates=(),
        refused={},
        evaluated=_evaluated(setting, request, state),
    )
    return _publish(setting, outcome, begun)


def _evaluated(setting: Setting, request: Request, candidate: State, *, busy: Collection[str] = ()) -> Evaluated:
    with span("gather", version=request.version, step="evaluate"):
        return gather_evaluations(setting, request, candidate, busy=busy)


def _run_round(setting: Setting, planned: PlannedRound, parent: Release) -> Release:
    begun = time.monotonic()
    spool = Spool(setting.store.folder / "spool" / planned.version, parent=parent.digest)
    state_of = states_of(setting.experiment, planned.number, setting.initial)
    strategy, state = _strategy(setting, planned), dict(state_of(parent))
    memory: State = grown_with_zeros(_memory(setting, planned, parent), like=state)
    begun_from = arrivals(setting, planned, parent, strategy)
    asked = tuple(sorted(begun_from))
    companions = dict(strategy.broadcast(shown_to(strategy, state), memory))
    request = _request(setting, planned.version, planned.number, **strategy.directives(planned.number))
    setting.watch(
        RoundStarted(
            version=planned.version,
            phase=planned.phase.name,
            round=planned.number,
            cohort=asked,
            spooled=tuple(sorted(spool.accepted())),
        )
    )
    if setting.experiment.federation.keep_updates:
        eligible_sites = len(eligible(planned.phase, setting.sites.names()))
        keep_round(spool.folder, KeptRound(eligible=eligible_sites, begun=begun_from))
    refused = dict[str, str]()
    for start, sites in starts(begun_from, parent, setting.store, state_of):
        kinds = strategy.companions
        with span("gather", version=planned.version, step="train", sites=len(sites)):
            refused |= gather_updates(setting, request, start, sites, spool, companions=companions, kinds=kinds)
    accepted = [update for update in spool.updates() if update.site in begun_from]
    updates = as_arrived(accepted, begun_from, parent, setting.store, strategy, state_of)
    _check_quorum(setting, planned, asked, updates, refused)
    busy = {site for site, why in refused.items() if is_late(why)}
    with span("aggregate", strategy=planned.phase.strategy.name, updates=len(updates)):
        aggregated, memory = aggregate(strategy, state, updates, memory, version=planned.version)
    outcome = Outcome(
        version=planned.version,
        phase=planned.phase,
        round=planned.number,
        strategy=planned.phase.strategy,
        parent=parent,
        began=state,
        state=aggregated,
        memory=memory,
        cohort=asked,
        updates=updates,
        refused=refused,
        evaluated=_evaluated(setting, request, aggregated, busy=busy),
        residual=_residual(planned, state, aggregated, updates),
    )
    release = _publish(setting, outcome, begun, beside=companions)
    if not setting.experiment.federation.keep_updates:
        spool.drop()
    return release


def states_of(experiment: Experiment, number: int, initial: Callable[[int], State]) -> StateOf:
    """What a site begins with that starts this round from some release: its state, grown to the round's labels and adapter.

    What is new is that of the state that training would start from with all of the round's labels and adapter, which follows from
    the seed: a round that is asked again, goes on after a crash, or is computed again later, starts from the same bits.

    Args:
        number: of the round.
        initial: the state that training would start from with all that a round has; asked only where something is new.
    """
    fresh = cache(partial(initial, number))

    def state_of(release: Release) -> State:
        same = _form(experiment, release.manifest.round) == _form(experiment, number)
        return release.state() if same else grown(release.state(), like=fresh())

    return state_of


def _form(experiment: Experiment, round: int) -> tuple[Labels, Adapter]:
    """All that decides which tensors a release of this round has."""
    return experiment.labels_at(round), experiment.adapter_at(round).form


def _memory(setting: Setting, planned: PlannedRound, parent: Release) -> State:
    """The parent's memory, if this round's strategy made it; another one's numbers mean nothing to it."""
    memory, before = parent.memory(), parent.manifest.federation.strategy
    if before != planned.phase.strategy.name and parent.version != BASE_VERSION:
        setting.watch(
            MemoryBegins(
                phase=planned.phase.name,
                strategy=planned.phase.strategy.name,
                before=before,
                kept=parent.version if memory else None,
            )
        )
    return memory_for(planned.phase.strategy.name, before, memory)


def _residual(planned: PlannedRound, parent: State, state: State, updates: Sequence[Update]) -> dict[str, float]:
    """By LoRA layer, against the mean with the strategy's own weights where it has that knob, else with equal ones.

    Empty where it is 0 in every layer, so that rules which are exact by themselves (frozen factors) have nothing to tell. It
    follows from what the sites sent and from what is released: under privacy it costs nothing more.
    """
    examples = planned.phase.strategy.knobs.get("weighting") == "examples"
    weights = weights_of(updates, "examples" if examples else "uniform")
    found = {layer: round(value, DECIMALS) for layer, value in residuals(parent, state, updates, weights).items()}
    return found if any(found.values()) else {}


def _request(setting: Setting, version: str, number: int, **directives: float | str | bool) -> Request:
    return Request(
        experiment=setting.experiment, version=version, round=number, base=setting.base.digest, directives=directives
    )


def _record(setting: Setting, planned: PlannedRound, error: RoundFailed) -> None:
    """The only trace of a failed round."""
    setting.store.record_failure(
        LogEntry(
            version=planned.version,
            digest=None,
            event="round-failed",
            phase=planned.phase.name,
            round=planned.number,
            time=utc_now(),
            reason=f"{error.what}; {error.value}",
        )
    )


def _check_quorum(
    setting: Setting, planned: PlannedRound, asked: Sequence[str], updates: Sequence[Update], refused: dict[str, str]
) -> None:
    quorum = setting.experiment.federation.quorum
    least = needed(quorum, len(asked))
    if len(updates) >= least:
        return
    reasons = "; ".join(f"{site}: {why}" for site, why in sorted(refused.items())[:REASONS_SHOWN])
    more = f"; and {len(refused) - REASONS_SHOWN} more" if len(refused) > REASONS_SHOWN else ""
    what = (
        f"round {planned.number} ({planned.version}): {len(updates)} of {len(asked)} sites answered, {least} are needed"
    )
    raise RoundFailed(
        what,
        value=reasons + more,
        rule=f"federation.quorum = {quorum:g} of the cohort",
        hint="mend what the sites say and run the same command again: accepted updates are kept",
    )


def _publish(setting: Setting, outcome: Outcome, begun: float, beside: State | None = None) -> Release:
    more = len(state_bytes(beside)) if beside else 0  # companions go to those who train
    sent = len(state_bytes(narrowed(outcome.state, setting.experiment.transport)))
    cost = Cost(
        seconds=time.monotonic() - begun,
        bytes_up=sum(update.size_bytes for update in outcome.updates),
        bytes_down=sent * (len(outcome.cohort) + outcome.evaluated.asked) + more * len(outcome.cohort),
    )
    with span("publish", version=outcome.version):
        release = publish(outcome, cost, experiment=setting.experiment, base=setting.base, store=setting.store)
    metrics = outcome.evaluated.metrics
    setting.watch(
        Released(
            version=release.version,
            digest=release.digest,
            metrics={**metrics.mean, **({"worst_site": metrics.worst["accuracy"]} if metrics.worst else {})},
            epsilon=release.manifest.privacy.epsilon_total if release.manifest.privacy else None,
            bytes_up=cost.bytes_up,
            bytes_down=cost.bytes_down,
            seconds=cost.seconds,
            held=_why_held(release),
        )
    )
    return release


def _why_held(release: Release) -> str | None:
    report = report_of(release) if release.manifest.verdict == "held" else None
    return report.sentence if report else None
