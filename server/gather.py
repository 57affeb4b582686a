"""Answers of one round: screened one at a time as they arrive, so that the server never holds many of them.

Example::

    refused = gather_updates(setting, request, parent_state, asked, spool, companions={}, kinds=())
    evaluated = gather_evaluations(setting, request, candidate)
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Size

from fedrelease.downlink import as_received
from fedrelease.errors import FedreleaseError, UpdateRefused
from fedrelease.experiment import Experiment
from fedrelease.item_outcomes import Outcomes
from fedrelease.manifest import MetricsFacts
from fedrelease.messages import Answer, Request
from fedrelease.models.bases import Base
from fedrelease.privacy import Receipt
from fedrelease.server.evaluation import SiteReport, site_metrics
from fedrelease.server.events import NotWaitedFor, SiteAnswered, Watcher
from fedrelease.server.gates.items import SERVER
from fedrelease.server.plan import evaluators
from fedrelease.server.screen import screen, screen_companions, screen_evaluation
from fedrelease.server.sites import Reply, Sites
from fedrelease.server.spool import Screened, Spool
from fedrelease.server.store import Store
from fedrelease.server.stragglers import Stragglers, is_late
from fedrelease.server.tracing import spanned
from fedrelease.update import State

__all__ = ["Evaluated", "Seen", "Setting", "gather_evaluations", "gather_updates", "needed"]

REASON_LENGTH = 300
TOGETHER_BYTES = 32 << 20
"""Updates that arrived together are written together, unless they are larger: then they go to disk before the next is read."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the server saw on a hold-out of its own: metrics, and each row where a gate needs them."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    items: Outcomes | None = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all rounds share.

    Attributes:
        initial: makes the state that training starts from with the labels and the adapter of a round: of version 0.0.0 for round
            0, and where these grow what comes to the parent's tensors.
        look: what the state of a round does on the server's own hold-out; empty without one.
        seconds_of: how long a site takes with a state of so many bytes, where that is known beforehand: on virtual time.
    """

    experiment: Experiment
    store: Store
    sites: Sites
    base: Base
    initial: Callable[[int], State]
    look: Callable[[State, int], Seen]
    watch: Watcher
    seconds_of: Callable[[str, int], float] | None = None

    def tell(self, request: Request, step: str, site: str, refused: str | None, receipt: Receipt | None) -> None:
        """Tell the watcher what became of a site's answer."""
        spanned("answer", version=request.version, step=step, site=site, refused=refused or "")
        epsilon = receipt.epsilon_total if receipt else None
        self.watch(SiteAnswered(version=request.version, step=step, site=site, refused=refused, epsilon=epsilon))


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What sites and server saw of a candidate; ``items`` by site, the server's own under its name.

    ``asked``: how many sites were.
    """

    metrics: MetricsFacts
    report: SiteReport
    receipts: tuple[Receipt, ...]
    refused: Mapping[str, str]
    items: Mapping[str, Outcomes] = field(default_factory=dict)
    answers: Mapping[str, Answer] = field(default_factory=dict)
    asked: int = 0


def gather_updates(
    setting: Setting,
    request: Request,
    parent: State,
    asked: Sequence[str],
    spool: Spool,
    *,
    companions: State,
    kinds: Sequence[str],
) -> dict[str, str]:
    """Ask the sites that are not in the spool yet; return who was refused, and why.

    What they trained counts from the parent's state as they received it. ``companions`` go out with that state, and companions
    of these ``kinds`` come back.
    """
    refused: dict[str, str] = {}
    spooled = spool.accepted()
    waiting = [site for site in asked if site not in spooled]
    together: list[Screened] = []
    size = 0
    parent = as_received(parent, request.experiment.transport)
    stragglers = _stragglers(setting, len(asked), answered=len(asked) - len(waiting))
    for reply in setting.sites.train(request, parent, waiting, companions, *_watching(stragglers)):
        try:
            together.append(_screened(request, reply, parent, kinds))
            size += together[-1].size_bytes
            if stragglers:
                stragglers.answered()
        except UpdateRefused as error:
            refused[reply.site] = _short(error)
            setting.tell(request, "train", reply.site, refused[reply.site], None)
        if not reply.more or size >= TOGETHER_BYTES:
            _keep(setting, request, spool, together)
            together, size = [], 0
    _tell_late(setting, request, "train", refused, stragglers)
    return refused


def needed(quorum: float, asked: int) -> int:
    """How many of those asked have to answer."""
    return max(1, math.ceil(quorum * asked))


def _stragglers(setting: Setting, asked: int, *, answered: int = 0) -> Stragglers | None:
    """Who says when a step stops waiting; ``answered`` did so before it was stopped and went on."""
    federation = setting.experiment.federation
    if federation.straggler_factor is None:
        return None
    return Stragglers(factor=federation.straggler_factor, quorum=needed(federation.quorum, asked) - answered)


def _watching(stragglers: Stragglers | None) -> tuple[Stragglers, ...]:
    """What is passed on to sites: where nobody can be late they are asked as ever."""
    return () if stragglers is None else (stragglers,)


def _tell_late(
    setting: Setting, request: Request, step: str, refused: Mapping[str, str], stragglers: Stragglers | None
) -> None:
    late = tuple(sorted(site for site, why in refused.items() if is_late(why)))
    if late and stragglers is not None and stragglers.allowed_s is not None and stragglers.median_s is not None:
        allowed_s, median_s = round(stragglers.allowed_s, 1), round(stragglers.median_s, 1)
        setting.watch(
            NotWaitedFor(version=request.version, step=step, sites=late, allowed_s=allowed_s, median_s=median_s)
        )


def _screened(request: Request, reply: Reply, parent: State, kinds: Sequence[str]) -> Screened:
    if reply.answer is None or reply.refused is not None:
        raise UpdateRefused(reply.refused or "no answer")
    experiment, private = request.experiment, request.directives.get("private")
    part = private if isinstance(private, str) else None
    delta = screen(
        parent,
        reply.arrays,
        reply.answer,
        experiment=experiment,
        site=reply.site,
        part=part,
        adapter=request.adapter,
    )
    companions = screen_companions(parent, reply.companions, kinds, experiment=experiment)
    beside = {**delta, **companions}
    return Screened(site=reply.site, delta=beside, answer=reply.answer, sent_bytes=reply.sent_bytes)


def _keep(setting: Setting, request: Request, spool: Spool, together: Sequence[Screened]) -> None:
    """Write down what arrived together, then tell."""
    for alike in _by_shape(together):
        spool.accept(alike)
    for update in together:
        setting.tell(request, "train", update.site, None, update.answer.receipt)


def _by_shape(updates: Sequence[Screened]) -> Iterable[Sequence[Screened]]:
    """Updates that lie in one file have the same shapes; sites of several ranks do not."""
    found: dict[tuple[Size, ...], list[Screened]] = defaultdict(list)
    for update in updates:
        found[tuple(tensor.shape for tensor in update.delta.values())].append(update)
    return found.values()


def gather_evaluations(
    setting: Setting, request: Request, candidate: State, *, busy: Collection[str] = ()
) -> Evaluated:
    """Ask the evaluators about the candidate, and look at the server's own hold-out.

    Who is ``busy``, still training although nobody waits for it any more, is not asked: one more question would only lie there.
    """
    answers: dict[str, Answer] = {}
    refused: dict[str, str] = {}
    federation = setting.experiment.federation
    asked = [site for site in evaluators(federation, request.version, setting.sites.names()) if site not in busy]
    stragglers = _stragglers(setting, len(asked))
    for reply in setting.sites.evaluate(request, candidate, asked, *_watching(stragglers)):
        try:
            answers[reply.site] = _evaluation(request, reply)
            if stragglers:
                stragglers.answered()
        except UpdateRefused as error:
            refused[reply.site] = f"hold-out: {_short(error)}"
        answer = answers.get(reply.site)
        setting.tell(request, "evaluate", reply.site, refused.get(reply.site), answer.receipt if answer else None)
    _tell_late(setting, request, "evaluate", refused, stragglers)
    seen = setting.look(candidate, request.round)
    task, unit = setting.experiment.model.task, setting.experiment.data.scale.unit
    metrics, report = site_metrics(answers, labels=request.labels, server=seen.metrics, task=task, unit=unit)
    receipts = tuple(answers[site].receipt for site in sorted(answers))
    items = {**{site: answer.items for site, answer in answers.items()}, SERVER: seen.items}
    return Evaluated(
        metrics=metrics,
        report=report,
        receipts=tuple(r for r in receipts if r is not None),
        refused=refused,
        items={name: told for name, told in sorted(items.items()) if told is not None},
        answers=answers,
        asked=len(asked),
    )


def _evaluation(request: Request, reply: Reply) -> Answer:
    if reply.answer is None or reply.refused is not None:
        raise UpdateRefused(reply.refused or "no answer")
    screen_evaluation(reply.answer, experiment=request.experiment, labels=request.labels, site=reply.site)
    return reply.answer


def _short(error: FedreleaseError) -> str:
    """The reason as a manifest keeps it: one line, bounded."""
    return " ".join(str(error).split()).rstrip(".")[:REASON_LENGTH]
