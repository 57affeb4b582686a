"""Screening: what a site's answer must be before it counts. The only place where a stranger's tensors are looked at.

Example::

    screen(parent, trained, answer, experiment=experiment, site="amazon")     # raises UpdateRefused, or returns the delta
"""

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedrelease.adapter import Adapter
from fedrelease.errors import UpdateRefused
from fedrelease.experiment import Experiment
from fedrelease.factors import trained_part, truncated
from fedrelease.messages import ACCURACY_PRIVATE, Answer
from fedrelease.privacy import Receipt
from fedrelease.private_part import private_names
from fedrelease.tasks import TASKS
from fedrelease.tasks.contract import Task
from fedrelease.update import State

__all__ = ["screen", "screen_companions", "screen_evaluation"]

MOST_ROWS = 1e9
MOST_SHOWN = 8
NOISES = ("secure", "seeded")


def screen(
    parent: State,
    trained: Mapping[str, Tensor],
    answer: Answer,
    *,
    experiment: Experiment,
    site: str,
    part: str | None = None,
    adapter: Adapter | None = None,
) -> dict[str, Tensor]:
    """The delta ``trained - parent``, once every check has passed.

    Residuals go out with the state and stay as they are: none is expected back, and one that comes is an unknown tensor.
    A site with a rank of its own in the round's ``adapter`` (left out = the first phase's) trained from the leading ranks of the
    parent's factors, and answers in that rank.
    Checked, in this order: the site's name; the number of examples, which privacy keeps to the site; tensor names; shapes and
    dtypes; that tensors of the private ``part`` are what was sent out; finite values; the delta's L2 norm against
    ``federation.max_update_norm``; with privacy a receipt that promises at least what the experiment asks for.

    Raises:
        UpdateRefused: a check failed; the text names the tensor or the field.
    """
    private = experiment.privacy.unit != "none"
    _check_site(answer, site)
    _check_examples(answer.examples, private=private)
    if private and "loss" in answer.metrics:
        raise UpdateRefused("the answer tells a loss", value="loss", rule="with privacy it stays with the site")
    parent = trained_part(parent)
    _check_names(parent, trained)
    adapter = adapter or experiment.model.adapter
    if adapter.site_ranks:
        parent = truncated(parent, adapter.rank_of(site))
    delta = {name: _delta_of(name, tensor, trained[name]) for name, tensor in parent.items()}
    _check_private(delta, part)
    norm = math.hypot(*(_length(name, moved, trained[name]) for name, moved in delta.items()))
    _check_norm("update", norm, experiment)
    if private:
        _check_receipt(answer.receipt, experiment=experiment, site=site, pool="train")
    return delta


def screen_companions(
    parent: State, sent: Mapping[str, Tensor], kinds: Sequence[str], *, experiment: Experiment
) -> dict[str, Tensor]:
    """What came beside a trained state, as it came: of each kind one tensor for each of the parent's but residuals.

    Checked: names; shapes and dtypes, which are the parent's; finite values; each kind's L2 norm against
    ``federation.max_update_norm``. A strategy with no ``kinds`` gets nothing.

    Raises:
        UpdateRefused: a check failed; the text names the tensor or the kind.
    """
    expected = {f"{kind}/{name}": tensor for kind in kinds for name, tensor in trained_part(parent).items()}
    _check_names(expected, sent)
    for kind in kinds:
        names = [name for name in expected if name.startswith(f"{kind}/")]
        for name in names:
            _check_form(name, expected[name], sent[name])
        _check_norm(f"{kind} beside the update", math.hypot(*(_length(n, sent[n], sent[n]) for n in names)), experiment)
    return {name: sent[name] for name in expected}


def _check_norm(what: str, norm: float, experiment: Experiment) -> None:
    most = experiment.federation.max_update_norm
    if not norm <= most:
        raise UpdateRefused(f"the {what} is too large", value=norm, rule=f"norm <= {most:g}")


def _check_names(parent: State, trained: Mapping[str, Tensor]) -> None:
    for name in sorted(set(parent) - set(trained)):
        raise UpdateRefused(f"the tensor {name} is missing", value=len(trained), rule=f"{len(parent)} tensors")
    for name in sorted(set(trained) - set(parent)):
        raise UpdateRefused("an unknown tensor came", value=name, rule="only what a site trains comes back")


def _delta_of(name: str, before: Tensor, after: Tensor) -> Tensor:
    _check_form(name, before, after)
    return after - before


def _check_private(delta: State, part: str | None) -> None:
    """What is private to a site is not spooled, released or looked at, not even by mistake of the site."""
    for name in private_names(delta, part):
        if bool(delta[name].any()):
            raise UpdateRefused(
                f"{name} is private to its site, and came",
                value="other numbers than were sent out",
                rule=f"with the directive private = {part} it comes back as it went out",
                hint="update that site",
            )


def _check_form(name: str, before: Tensor, after: Tensor) -> None:
    if after.shape != before.shape:
        raise UpdateRefused(f"{name} has another shape", value=tuple(after.shape), rule=f"shape {tuple(before.shape)}")
    if after.dtype != before.dtype:
        raise UpdateRefused(f"{name} has another dtype", value=str(after.dtype), rule=f"dtype {before.dtype}")


def _length(name: str, delta: Tensor, after: Tensor) -> float:
    """The L2 norm of one tensor's delta. One quick look tells whether all is finite; only if not, which it is, and how long."""
    quick = float(torch.linalg.vector_norm(delta))
    if math.isfinite(quick):
        return quick
    if not bool(torch.isfinite(after).all()):
        raise UpdateRefused(f"{name} has values that are not finite", value="NaN or Inf", rule="every value is finite")
    return float(torch.linalg.vector_norm(delta, dtype=torch.float64))


def screen_evaluation(
    answer: Answer, *, experiment: Experiment, site: str, labels: tuple[str, ...] | None = None
) -> None:
    """Check what a site tells about its hold-out.

    Checked: the site's name; a confusion matrix of the round's ``labels`` (left out = all) and the task's sums, believable; an
    ``accuracy_private``, where there is one, between 0 and 1; that the site tells no more than ``privacy.metrics`` allows, and
    with noised metrics its receipt.

    Raises:
        UpdateRefused: a check failed; the text names the field.
    """
    _check_site(answer, site)
    known = experiment.model.labels if labels is None else labels
    task = TASKS[experiment.model.task]
    if answer.confusion is not None:
        _check_confusion(answer.confusion, classes=len(task.answers(known)))
    exact = experiment.privacy.unit == "none" or experiment.privacy.metrics == "exact"
    _check_sums(answer, task, detail=len(task.detail(known)) if exact else 0)
    if answer.items is not None and experiment.tells_items:
        answer.items.check(task.answers(known))
    elif answer.items is not None:
        raise UpdateRefused("the answer tells more than was asked", value="items", rule="no gate may have them")
    _check_share(answer.metrics.get(ACCURACY_PRIVATE))
    if exact:
        return
    told = [
        *(["loss"] if answer.loss is not None else []),
        *(["confusion"] if experiment.privacy.metrics == "withheld" and answer.confusion is not None else []),
        *([ACCURACY_PRIVATE] if ACCURACY_PRIVATE in answer.metrics else []),
    ]
    if told:
        rule = f"privacy.metrics is {experiment.privacy.metrics}"
        raise UpdateRefused("the answer tells more than was asked", value=told[0], rule=rule)
    if answer.confusion is not None:
        _check_receipt(answer.receipt, experiment=experiment, site=site, pool="holdout")


def _check_site(answer: Answer, site: str) -> None:
    if answer.site != site:
        raise UpdateRefused("the answer names another site", value=answer.site, rule=f"site is {site}")


def _check_share(accuracy: float | None) -> None:
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise UpdateRefused(f"{ACCURACY_PRIVATE} is not believable", value=accuracy, rule="between 0 and 1")


def _check_confusion(rows: Sequence[Sequence[float]], *, classes: int) -> None:
    shape = [len(row) for row in rows]
    if shape != [classes] * classes:
        rule = f"{classes} rows of {classes}"
        raise UpdateRefused("the confusion matrix has another shape", value=shape[:MOST_SHOWN], rule=rule)
    largest = max(abs(cell) for row in rows for cell in row)
    if not largest <= MOST_ROWS:
        raise UpdateRefused("the confusion matrix is not believable", value=largest, rule=f"at most {MOST_ROWS:g} rows")


def _check_sums(answer: Answer, task: Task, *, detail: int) -> None:
    wanted = 0 if answer.confusion is None else len(task.sums) + detail
    sums = answer.sums or ()
    if len(sums) != wanted:
        raise UpdateRefused("other sums came than were asked for", value=len(sums), rule=f"{wanted} of {task.name}")
    if largest := max((abs(value) for value in sums if not abs(value) <= MOST_ROWS), default=0.0):
        raise UpdateRefused("the sums are not believable", value=largest, rule=f"at most {MOST_ROWS:g}")


def _check_examples(examples: int | None, *, private: bool) -> None:
    if private and examples is not None:
        raise UpdateRefused("the answer tells its number of examples", value=examples, rule="it is private here")
    if examples is not None and examples < 1:
        raise UpdateRefused("no examples stand behind the answer", value=examples, rule="examples is at least 1")


def _check_receipt(receipt: Receipt | None, *, experiment: Experiment, site: str, pool: str) -> None:
    """Refuse an answer whose receipt is missing or promises less than the experiment's ``[privacy]`` section."""
    wanted = experiment.privacy
    if receipt is None:
        raise UpdateRefused("the privacy receipt is missing", value=None, rule=f"privacy.unit is {wanted.unit}")
    clip = wanted.clip if pool == "train" else 1.0  # one row changes one count by one
    for field, is_, rule in (
        ("site", receipt.site == site, f"= {site}"),
        ("pool", receipt.pool == pool, f"= {pool}"),
        ("unit", receipt.unit == wanted.unit, f"= {wanted.unit}"),
        ("charge", re.fullmatch("[0-9a-f]{64}", receipt.charge) is not None, "is a sha256"),
        ("accountant", receipt.accountant == wanted.accountant, f"= {wanted.accountant}"),
        ("noise", receipt.noise in NOISES, f"is one of {', '.join(NOISES)}"),
        ("clip", 0 < receipt.clip <= clip, f"above 0, at most {clip:g}"),
        ("delta", 0 < receipt.delta <= wanted.delta, f"above 0, at most {wanted.delta:g}"),
        ("noise_multiplier", 0 < receipt.noise_multiplier < math.inf, "> 0"),
        ("sample_rate", 0 < receipt.sample_rate <= 1, "above 0, at most 1"),
        ("steps", receipt.steps >= 1, ">= 1"),
        ("epsilon_round", 0 <= receipt.epsilon_round < math.inf, "is finite and not negative"),
        ("epsilon_total", 0 < receipt.epsilon_total <= wanted.epsilon, f"above 0, at most {wanted.epsilon:g}"),
    ):
        if not is_:
            raise UpdateRefused(
                f"the receipt's {field} breaks its rule", value=getattr(receipt, field), rule=f"{field} {rule}"
            )
