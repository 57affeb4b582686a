"""One site's work in one round: charge the ledger, train, tell; or look at the hold-out and tell what policy allows.

Example::

    answer, trained = train_site(site, request, state, model)       # the ledger is charged before the first step
    answer, sent = train_site(site, request, state, model, {"variate/head.bias": ...})     # with companions of the server
    answer = evaluate_site(site, request, state, model)
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy
from torch import Tensor

from fedrelease.accounting import Segment
from fedrelease.client.aim import aim_of
from fedrelease.client.augmentation import Fill
from fedrelease.client.calibration import Calibrations
from fedrelease.client.correction import Correction, MeanGradient
from fedrelease.client.directives import Directives, frozen, parse_directives
from fedrelease.client.fisher import check_fisher, fisher_of
from fedrelease.client.ledger import Entry, Ledger, Standing
from fedrelease.client.phase_rows import check_rows, rows_of, steps_before, steps_in_all, stretches
from fedrelease.client.private_part import PrivatePart, open_private_part, own_tensors
from fedrelease.client.sampling import Randomness, randomness
from fedrelease.client.selftest import check_gradients
from fedrelease.client.training import Job, Seeds, train
from fedrelease.client.variates import Carried, check_companions, open_variate
from fedrelease.data.row_files import Rows
from fedrelease.data.sites import SiteData
from fedrelease.errors import ModelError, PrivacyError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import experiment_digest
from fedrelease.factors import trained_part
from fedrelease.files import Json, canonical_bytes, digest_bytes
from fedrelease.messages import ACCURACY_PRIVATE, Answer, Request
from fedrelease.models.classifier import load_state, trainable_state
from fedrelease.models.evaluation import Tally, bounded, judge, look, mean_loss, outcomes, tally
from fedrelease.models.metrics import Matrix, scores
from fedrelease.models.ranks import at_rank
from fedrelease.models.tasks import Classifier, task_of
from fedrelease.privacy import PrivacyPlan, Receipt, plan_privacy
from fedrelease.tasks import contract
from fedrelease.update import State, state_digest

__all__ = ["Site", "Task", "begin_training", "charge_facts", "charge_identity", "evaluate_site", "train_site"]

DECIMALS = 4
"""Of noised counts that are no whole ones."""
Counts: TypeAlias = tuple[tuple[float, ...], ...]
RECEIPT_FIELDS = ("charge", "noise_multiplier", "sample_rate", "steps", "accountant", "delta")


@dataclass(frozen=True, kw_only=True)
class Site:
    """A partner's data and book. ``noise``: ``seeded`` in simulations that must repeat, else ``secure``.

    ``fill``: what takes the place of tokens that training drops; ``None`` where it drops none.
    """

    data: SiteData
    home: Path
    noise: str
    fill: Fill | None = None

    @property
    def ledger(self) -> Ledger:
        """The record of privacy spent on this site's data; it lies with the site, never with the server."""
        return Ledger(self.home / "ledger.jsonl")


def charge_facts(request: Request, state: State, companions: State | None = None) -> Mapping[str, Json]:
    """What all charges of one question share, the same for every site that it goes to."""
    beside: dict[str, Json] = {"companions": state_digest(companions)} if companions else {}
    return {
        **beside,
        "experiment": experiment_digest(request.experiment),
        "version": request.version,
        "round": request.round,
        "base": request.base,
        "directives": dict(request.directives),
        "state": state_digest(state),
    }


def charge_identity(site: Site, shared: Mapping[str, Json], *, pool: str) -> str:
    """What identifies a charge: everything that its answer depends on; with secure noise a fresh identity each time."""
    parts: dict[str, Json] = {
        **shared,
        "pool": pool,
        "site": site.data.name,
        "split": site.data.split,
        "attempt": "" if site.noise == "seeded" else secrets.token_hex(16),
    }
    return digest_bytes(canonical_bytes(parts))


def train_site(
    site: Site, request: Request, state: State, model: Classifier, companions: State | None = None
) -> tuple[Answer, dict[str, Tensor]]:
    """Train from ``state`` and return the answer with the trained state (float32; factors in the site's rank).

    Its names are those of ``state`` without residuals: these stay as they came, and are not sent back. ``companions`` came with
    the state, and those that go back are beside the trained tensors, by ``<kind>/<name>``. In the place of a private part there
    is what ``state`` has.

    Raises:
        BudgetExceeded: the ledger has no room; nothing was trained.
        DataError: the site's labels are not the experiment's, or what it keeps between rounds is not in order.
        PrivacyError: the plan has no such round, or the strategy asks for a loss that privacy keeps to the site.
        ModelError: the strategy asks for something that local training does not know, or that the model does not have; or this
            machine's gradients by example are wrong.
    """
    directives = parse_directives(request.directives)
    companions = companions or {}
    rank = request.adapter.rank_of(site.data.name)
    site = replace(site, data=rows_of(site.data, request))
    load_state(model, state)  # before the charge, as what follows it: a state or wish that does not fit costs nothing
    private = open_private_part(site.home, request, state)
    if private:
        load_state(model, {**state, **private.own})
    began = trained_part(state)
    check_companions(request, began, companions)
    with at_rank(model, rank):
        with frozen(model, directives.freeze):
            task = begin_training(
                site,
                request,
                model,
                shared=charge_facts(request, state, companions),
                check=lambda job: check_gradients(model, job.rows, again=job.aim.checkpointing),
                carried=open_variate(site.home, request, began, companions),
                private=private,
            )
            done = train(model, task.job)
        trained = trained_part(trainable_state(model))
        rows, few = site.data.train, request.experiment.training.micro_batch
        told = fisher_of(model, rows, micro_batch=few) if directives.tell_fisher else {}
    return task.answer(done), {**trained, **task.end(began, trained, done), **told}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A site's training, charged for and ready to go."""

    site: str
    job: Job
    receipt: Receipt | None
    told: Mapping[str, float] = field(default_factory=dict)
    carried: Carried | None = None
    private: PrivatePart | None = None

    def answer(self, steps: int) -> Answer:
        """What the site tells when that many steps were done. How many examples it has is private with privacy."""
        examples = None if self.job.plan else len(self.job.rows)
        metrics = {"steps": float(steps), **self.told}
        return Answer(site=self.site, examples=examples, metrics=metrics, receipt=self.receipt)

    def end(self, began: State, trained: State, steps: int) -> dict[str, Tensor]:
        """Keep the site's variate or private part for its next round; what is sent of the one, or in the other's place."""
        if self.private is not None:
            return self.private.end(began, trained)
        if self.carried is None:
            return {}
        return self.carried.end(began, trained, self.job.seen.over(steps) if self.job.seen else {})


def begin_training(
    site: Site,
    request: Request,
    model: Classifier,
    *,
    shared: Mapping[str, Json],
    check: Callable[[Job], None],
    carried: Carried | None = None,
    private: PrivatePart | None = None,
) -> Task:
    """Everything before the first step, the charge last of all.

    Args:
        shared: the question's :func:`charge_facts`.
        check: of the machine's gradients, before a private job is charged for.
        carried: the site's control variate, where the strategy keeps one.
        private: the site's own part of the model, where the strategy lets it keep one; the model has it.

    Raises:
        DataError, PrivacyError, BudgetExceeded: as :func:`train_site`.
    """
    site = replace(site, data=rows_of(site.data, request))
    _check_round(request)
    check_rows(site.data, request)
    directives = parse_directives(request.directives)
    _check_tells(directives, request.experiment, model)
    plan = _plan(site, request)
    kept: dict[str, Json] = {"variate": state_digest(carried.own)} if carried else {}
    kept |= {"private": state_digest(private.own)} if private else {}
    identity = charge_identity(site, {**shared, **kept}, pool="train")
    correction, seen = _steered(directives, carried)
    job = replace(_job(site, request, model, plan, key=identity), correction=correction, seen=seen)
    if plan:
        check(job)
    receipt = _charged(site, request, plan.segment(), identity, pool="train") if plan else None
    told = {"loss": _mean_loss(model, site.data.train)} if directives.tell_loss else {}
    return Task(site=site.data.name, job=job, receipt=receipt, told=told, carried=carried, private=private)


def _check_tells(directives: Directives, experiment: Experiment, model: Classifier) -> None:
    asked = [name for name in ("tell_fisher", "tell_loss") if getattr(directives, name)]
    if asked and experiment.privacy.unit != "none":
        raise PrivacyError(
            "the strategy asks for what is computed from training rows, which this site keeps to itself",
            value=f"{asked[0]} = true",
            rule=f"privacy.unit is {experiment.privacy.unit}: nothing of a row leaves without noise, and this would have none",
            hint="choose a strategy that needs the trained state alone, such as fedavg",
        )
    if directives.tell_fisher:
        check_fisher(model)
    if directives.variate is not None and experiment.training.keep_best:
        raise ModelError(
            "the strategy keeps a control variate of all of a round's steps",
            value="training.keep_best = true",
            rule="what a site sends is then the state after all of them",
            hint="leave training.keep_best out, or choose a strategy such as fedavg",
        )


def _steered(directives: Directives, carried: Carried | None) -> tuple[Correction, MeanGradient | None]:
    """What is added to each gradient, and who notes them: only SCAFFOLD wants to know their mean."""
    own = carried.correction if carried else Correction()
    seen = MeanGradient() if carried and carried.kind == "scaffold" else None
    return replace(own, pull=own.pull + directives.proximal_mu), seen


def _job(site: Site, request: Request, model: Classifier, plan: PrivacyPlan | None, *, key: str) -> Job:
    experiment = request.experiment
    return Job(
        rows=site.data.train,
        training=experiment.training,
        plan=plan,
        start=steps_before(site.data, experiment, round=request.round),
        steps=stretches(site.data, experiment, round=request.round)[0].steps,
        total=steps_in_all(site.data, experiment),
        seeds=Seeds(key=key, noise=site.noise),
        validate=None if plan else lambda: _mean_loss(model, site.data.holdout),
        aim=aim_of(experiment, model, site.data.train, labels=request.labels, fill=site.fill),
    )


def evaluate_site(site: Site, request: Request, state: State, model: Classifier) -> Answer:
    """What ``state`` does on the site's hold-out, as far as ``privacy.metrics`` lets it leave the site.

    Guarantees: with ``noised`` the only things that leave are the confusion matrix and the task's sums, both with Gaussian noise
    for how far one row can move them; where a row is one item, that is one count by one. The plan's rounds together cost at most
    ``privacy.epsilon``.

    Where the strategy lets a site keep a private part, all this is about ``state`` as it is released. What the site's users get,
    with the part in place, it tells beside that as the metric ``accuracy_private``, where metrics may leave without noise: a
    second look would have to be paid for. It is ``accuracy`` for a site that has no such part yet.
    """
    experiment = request.experiment
    site = replace(site, data=rows_of(site.data, request))
    private = experiment.privacy.unit != "none"
    if private and request.round == 0:
        _plan(site, request)  # noise for the whole plan takes a moment to find: now, while nobody waits for a round
    if private and experiment.privacy.metrics == "withheld":
        return Answer(site=site.data.name, metrics={})
    load_state(model, state)
    exact, task = not private or experiment.privacy.metrics == "exact", task_of(model)
    judged, answers = judge(model, site.data.holdout, request.labels, writes=exact), task.answers(request.labels)
    classes = len(answers)
    if exact:
        plain = tally(judged, classes=classes)
        return Answer(
            site=site.data.name,
            examples=len(site.data.holdout),
            metrics=_private_metrics(site, request, state, model, plain.matrix),
            confusion=_as_rows(plain.matrix),
            sums=plain.sums or None,
            loss=plain.loss,
            items=outcomes(judged, site.data.holdout, answers) if experiment.tells_items else None,
        )
    identity = charge_identity(site, charge_facts(request, state), pool="holdout")
    segment = _holdout_segment(site, experiment)
    receipt = _charged(site, request, segment, identity, pool="holdout")
    source = randomness(site.noise, "noise", identity)
    told = bounded(judged, classes=classes, bound=task.bound, sums=len(task.sums))
    matrix, sums = _noised(told, task, segment.noise_multiplier, source)
    return Answer(site=site.data.name, metrics={}, confusion=matrix, sums=sums or None, receipt=receipt)


def _noised(
    told: Tally, task: contract.Task, multiplier: float, source: Randomness
) -> tuple[Counts, tuple[float, ...]]:
    """Gaussian noise on all that is told, for how far one row moves it; counts of whole items are rounded."""
    deviation = multiplier * task.sensitivity
    matrix = told.matrix + source.normal(deviation, told.matrix.shape).numpy()
    matrix = numpy.round(matrix, 0 if task.items_a_row == "one" else DECIMALS) + 0.0  # + 0.0: no count is minus zero
    noise = source.normal(deviation * task.bound, (len(told.sums),)).tolist() if told.sums else []
    return _as_rows(matrix), tuple(round(value + one, DECIMALS) for value, one in zip(told.sums, noise, strict=True))


def _private_metrics(site: Site, request: Request, state: State, model: Classifier, plain: Matrix) -> dict[str, float]:
    """How the site's users fare, with its own tensors in the places of the state's; ``plain`` is of the state as it is."""
    own = own_tensors(site.home, request, state)
    if own is None or not len(site.data.holdout):
        return {}
    if own:
        load_state(model, {**state, **own})
        plain = look(model, site.data.holdout, request.labels).matrix
    return {ACCURACY_PRIVATE: scores(plain)["accuracy"]}


def _check_round(request: Request) -> None:
    if not 1 <= request.round <= request.experiment.rounds:
        raise PrivacyError(
            "the plan has no such round",
            value=request.round,
            rule=f"round is between 1 and {request.experiment.rounds}",
            hint="noise and learning rates are planned for these rounds; add rounds to the experiment for more",
        )


def _plan(site: Site, request: Request) -> PrivacyPlan | None:
    now, others = stretches(site.data, request.experiment, round=request.round)
    if not now.rows:
        return None
    return plan_privacy(
        request.experiment.privacy,
        rows=now.rows,
        batch_size=request.experiment.training.batch_size,
        steps_per_round=now.steps,
        rounds=now.rounds,
        others=others,
        calibrated=Calibrations(site.home),
    )


def _holdout_segment(site: Site, experiment: Experiment) -> Segment:
    looks = experiment.rounds + 1  # the base is looked at too
    privacy = experiment.privacy
    noise = Calibrations(site.home)(
        epsilon=privacy.epsilon, delta=privacy.delta, sample_rate=1.0, steps=looks, accountant=privacy.accountant
    )
    return Segment(noise, 1.0, 1)


def _charged(site: Site, request: Request, segment: Segment, identity: str, *, pool: str) -> Receipt:
    privacy = request.experiment.privacy
    entry = Entry(
        charge=identity,
        pool=pool,
        split=site.data.split,
        noise_multiplier=segment.noise_multiplier,
        sample_rate=segment.sample_rate,
        steps=segment.steps,
        accountant=privacy.accountant,
        delta=privacy.delta,
        federation=request.experiment.federation.name,
        version=request.version,
    )
    standing: Standing = site.ledger.charge(entry, budget=privacy.epsilon)
    shared = {key: value for key, value in asdict(entry).items() if key in RECEIPT_FIELDS}
    return Receipt(
        site=site.data.name,
        unit=privacy.unit,
        pool=pool,
        clip=privacy.clip if pool == "train" else 1.0,
        epsilon_round=standing.epsilon_round,
        epsilon_total=standing.epsilon_total,
        noise=site.noise,
        **shared,
    )


def _mean_loss(model: Classifier, rows: Rows) -> float:
    loss = mean_loss(model, rows)
    model.train()
    return loss


def _as_rows(matrix: Matrix) -> Counts:
    return tuple(tuple(float(cell) for cell in row) for row in matrix)
