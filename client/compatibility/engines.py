"""One combination on every engine: real gradients against those of one row at a time, and a real step.

Example::

    found = tried(Combination(task="causal-lm", adapter=Adapter(kind="lora")), base)
    found["formed"].status                   # "works"

The engines: ``plain`` is training without privacy; ``formed`` and ``booked`` are private
(:mod:`fedrelease.models.engines`), and a model has one of them; ``together`` trains many sites in one computation
(:mod:`fedrelease.client.together`), which only small networks need.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from fedrelease.adapter import Adapter
from fedrelease.client.deployment.trial import thrown_away
from fedrelease.client.selftest import check_gradients
from fedrelease.client.selftest_plain import check_plain
from fedrelease.client.selftest_sums import check_sums
from fedrelease.client.selftest_truth import compare
from fedrelease.client.together import train_together
from fedrelease.client.training import Job, Seeds, train
from fedrelease.data.row_files import Rows
from fedrelease.data.sample import sample_rows
from fedrelease.errors import FedreleaseError, ModelError
from fedrelease.experiment import Experiment, Model, Privacy, Training
from fedrelease.models.bases import Base
from fedrelease.models.classifier import load_state, trainable_state
from fedrelease.models.engines import check_engine, engine_of
from fedrelease.models.network import Network
from fedrelease.models.per_example import forget_gradients
from fedrelease.models.tasks import Classifier, build_model, task_of
from fedrelease.tasks import TASKS
from fedrelease.update import State

__all__ = ["ENGINES", "Combination", "Outcome", "tried"]

ENGINES = ("plain", "formed", "booked", "together")
TRAINING = Training(batch_size=4, micro_batch=2, lr=1e-2)
ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True)
class Combination:
    """What is tried on a base: a task, and an adapter with all its keys."""

    task: str
    adapter: Adapter


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one engine.

    Attributes:
        status: ``works``; ``refused``, before anything was trained; ``unused``, where training takes another engine; ``wrong``,
            where gradients differ from those of one row at a time, or something broke: a fault of this machine or of ours.
        what, given, rule, hint: of the error, as :class:`fedrelease.errors.FedreleaseError` has them.
        instead: the nearest thing that works, once others were tried.
    """

    status: str
    what: str = ""
    given: str = ""
    rule: str = ""
    hint: str = ""
    instead: str = ""


WORKS, UNUSED = Outcome(status="works"), Outcome(status="unused")


def tried(wanted: Combination, base: Base) -> Mapping[str, Outcome]:
    """What each engine makes of it, by the names of ``ENGINES``; nothing that is trained is kept."""
    try:
        model = Model(base=base.ref, task=wanted.task, adapter=wanted.adapter)
        data = TASKS[wanted.task].sample.data
        plain = Experiment(model=model, data=data, training=TRAINING, privacy=Privacy(unit="none"))
        built = build_model(base, model, seed=0)
        with sample_rows(task_of(built), base, labels=model.labels) as rows:
            return _on_rows(built, plain, rows)
    except FedreleaseError as error:
        return _nowhere(_refused(error))
    except Exception as error:  # whatever torch and transformers raise, it is not the refusal that there should be
        return _nowhere(_broken(error))


def _nowhere(outcome: Outcome) -> Mapping[str, Outcome]:
    return {"plain": outcome, "formed": outcome, "booked": outcome, "together": UNUSED}


def _on_rows(built: Classifier, plain: Experiment, rows: Rows) -> Mapping[str, Outcome]:
    found = dict.fromkeys(ENGINES, UNUSED)
    found["plain"] = _outcome(partial(_plainly, built, plain, rows))
    found[engine_of(built)] = _privately(built, plain, rows)
    if isinstance(built, Network):
        found["together"] = _outcome(partial(_together, built, plain, rows))
    return found


def _privately(built: Classifier, plain: Experiment, rows: Rows) -> Outcome:
    def ask() -> None:
        replace(plain, privacy=Privacy())
        check_engine(built, rows)

    def work() -> None:
        check_gradients(built, rows)
        _step(built, _job(rows, replace(plain, privacy=Privacy()), key="0"))

    return _outcome(work, ask)


def _plainly(built: Classifier, plain: Experiment, rows: Rows) -> None:
    check_plain(built, rows)
    _step(built, _job(rows, plain, key="0"))


def _together(built: Network, plain: Experiment, rows: Rows) -> None:
    """Each site of two ends where it would alone."""
    began = trainable_state(built)
    for experiment in (plain, replace(plain, privacy=Privacy())):
        jobs = [_job(rows, experiment, key=key) for key in ("0", "1")]
        check_sums(built, jobs[0])
        for job, state in zip(jobs, train_together(built, jobs), strict=True):
            load_state(built, began)
            for name, alone in _step(built, job).items():
                compare(f"{name} of a site that trains beside others is", state[name], alone, allowed=ROUNDING)
            load_state(built, began)


def _job(rows: Rows, experiment: Experiment, *, key: str) -> Job:
    private = experiment.privacy.unit != "none"
    plan = thrown_away(len(rows), experiment) if private else None
    seeds = Seeds(key=key, noise="seeded")
    return Job(rows=rows, training=experiment.training, plan=plan, start=0, steps=1, total=1, seeds=seeds)


def _step(model: Classifier, job: Job) -> State:
    """One real step, which moves the model to finite numbers; where it ends."""
    began = trainable_state(model)
    train(model, job)
    forget_gradients(model)
    ended = trainable_state(model)
    if not all(bool(torch.isfinite(value).all()) for value in ended.values()):
        raise ModelError("a step ends in numbers that are not finite", value=model.task)
    if all(torch.equal(value, began[name]) for name, value in ended.items()):
        raise ModelError("a step changes nothing", value=model.task)
    return ended


def _outcome(work: Callable[[], None], ask: Callable[[], None] = lambda: None) -> Outcome:
    """``ask`` may refuse; once it has not, nothing may."""
    try:
        ask()
    except FedreleaseError as error:
        return _refused(error)
    try:
        work()
    except Exception as error:  # whatever went wrong: it was not refused
        return _broken(error)
    return WORKS


def _refused(error: FedreleaseError) -> Outcome:
    given = "" if error.value is None else str(error.value)
    return Outcome(status="refused", what=error.what, given=given, rule=error.rule, hint=error.hint)


def _broken(error: Exception) -> Outcome:
    return Outcome(status="wrong", what=f"{type(error).__name__}: {error}")
