"""Screening: what a site's answer must be before it counts. The only place where a stranger's tensors are looked at.

Example::

    screen(parent, trained, answer, experiment=experiment, site="amazon")     # raises UpdateRefused, or returns the delta
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedrelease.errors import UpdateRefused
from fedrelease.experiment import Experiment
from fedrelease.messages import Answer
from fedrelease.privacy import Receipt
from fedrelease.update import State

__all__ = ["screen"]


def screen(
    parent: State, trained: Mapping[str, Tensor], answer: Answer, *, experiment: Experiment, site: str
) -> dict[str, Tensor]:
    """The delta ``trained - parent``, once every check has passed.

    Checked, in this order: the site's name; tensor names; shapes and dtypes; finite values; the delta's L2 norm against
    ``federation.max_update_norm``; with privacy a receipt that promises at least what the experiment asks for, and no example
    count.

    Raises:
        UpdateRefused: a check failed; the text names the tensor or the field.
    """
    if answer.site != site:
        raise UpdateRefused("the answer names another site", value=answer.site, rule=f"site is {site}")
    _check_names(parent, trained)
    delta = {name: _delta_of(name, tensor, trained[name]) for name, tensor in parent.items()}
    norm = math.sqrt(sum(float(part.to(torch.float64).square().sum()) for part in delta.values()))
    if norm > experiment.federation.max_update_norm:
        raise UpdateRefused(
            "the update is too large", value=norm, rule=f"norm <= {experiment.federation.max_update_norm:g}"
        )
    if experiment.privacy.unit != "none":
        check_receipt(answer.receipt, experiment=experiment, site=site)
    return delta


def _check_names(parent: State, trained: Mapping[str, Tensor]) -> None:
    for name in sorted(set(parent) - set(trained)):
        raise UpdateRefused(f"the tensor {name} is missing", value=len(trained), rule=f"{len(parent)} tensors")
    for name in sorted(set(trained) - set(parent)):
        raise UpdateRefused("an unknown tensor came", value=name, rule="only tensors that were sent out come back")


def _delta_of(name: str, before: Tensor, after: Tensor) -> Tensor:
    if after.shape != before.shape:
        raise UpdateRefused(f"{name} has another shape", value=tuple(after.shape), rule=f"shape {tuple(before.shape)}")
    if after.dtype != before.dtype:
        raise UpdateRefused(f"{name} has another dtype", value=str(after.dtype), rule=f"dtype {before.dtype}")
    if not bool(torch.isfinite(after).all()):
        raise UpdateRefused(f"{name} has values that are not finite", value="NaN or Inf", rule="every value is finite")
    return after - before


def check_receipt(receipt: Receipt | None, *, experiment: Experiment, site: str) -> None:
    """Refuse an answer whose receipt is missing or promises less than the experiment's ``[privacy]`` section.

    Raises:
        UpdateRefused: the text names the field.
    """
    wanted = experiment.privacy
    if receipt is None:
        raise UpdateRefused("the privacy receipt is missing", value=None, rule=f"privacy.unit is {wanted.unit}")
    for field, is_, rule in (
        ("site", receipt.site == site, f"= {site}"),
        ("unit", receipt.unit == wanted.unit, f"= {wanted.unit}"),
        ("clip", receipt.clip <= wanted.clip, f"<= {wanted.clip:g}"),
        ("delta", receipt.delta <= wanted.delta, f"<= {wanted.delta:g}"),
        ("noise_multiplier", receipt.noise_multiplier > 0, "> 0"),
        ("sample_rate", 0 < receipt.sample_rate <= 1, "above 0, at most 1"),
        ("epsilon_total", 0 < receipt.epsilon_total <= wanted.epsilon, f"above 0, at most {wanted.epsilon:g}"),
    ):
        if not is_:
            raise UpdateRefused(
                f"the receipt's {field} breaks its rule", value=getattr(receipt, field), rule=f"{field} {rule}"
            )
