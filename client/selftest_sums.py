"""Before a process trains many sites at once: are lengths and sums of gradients what they are taken for?

Example::

    check_sums(model, job)                   # ModelError names what disagrees

The counterpart of :mod:`fedrelease.client.selftest` for :mod:`fedrelease.client.together`, where no example's gradient is
ever formed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.client.training import Job, summed_loss, training_mode
from fedrelease.errors import ModelError
from fedrelease.models.classifier import canonical_name
from fedrelease.models.network import Network
from fedrelease.models.per_example import plain_layers
from fedrelease.models.stacked import form_sums, gradient_lengths, noted, stacked

__all__ = ["check_sums"]

EXAMPLES = 4
TOLERANCE = 1e-3
LEAST = 1e-6
_CHECKED: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True, kw_only=True)
class _Truth:
    """One example at a time, through torch's own layers: the length of each gradient, and their sum by parameter."""

    lengths: Tensor
    sums: Sequence[Tensor]


def check_sums(model: Network, job: Job) -> None:
    """Compare lengths and sums with one example at a time, on the job's first rows, once for a model; it is left as it was.

    Raises:
        ModelError: they disagree; the text names the parameter.
    """
    if model in _CHECKED:
        return
    rows = torch.arange(min(EXAMPLES, len(job.rows)))
    truth = _singly(model, job, rows)
    with stacked(model, 1), training_mode(model):
        batch = job.rows.batch(rows)
        logits = model(batch.inputs[0][None])[0]
        parts = noted(model, functional.cross_entropy(logits, batch.labels, reduction="sum"))
        lengths = gradient_lengths(parts)
        form_sums(parts, torch.ones(1, len(rows)))
        found = {name: value.grad[0].detach() for name, value in model.named_parameters() if value.grad is not None}
    _compare("the length of gradients by example", lengths[0], truth.lengths)
    for (name, _), expected in zip(model.named_parameters(), truth.sums, strict=True):
        _compare(f"the gradient of {canonical_name(name)}", found[name], expected)
    _CHECKED.add(model)


def _singly(model: Network, job: Job, rows: Tensor) -> _Truth:
    with plain_layers(model):
        each = [torch.autograd.grad(summed_loss(model, job.rows, row[None]), list(model.parameters())) for row in rows]
    lengths = torch.stack([torch.cat([part.flatten() for part in one]).norm() for one in each])
    return _Truth(lengths=lengths, sums=[torch.stack(parts).sum(0) for parts in zip(*each, strict=True)])


def _compare(what: str, found: Tensor, expected: Tensor) -> None:
    off = float((found - expected).detach().norm() / (expected.norm() + LEAST))
    if not off <= TOLERANCE:
        raise ModelError(
            f"{what} is wrong",
            value=f"off by {off:.3g} of its length",
            rule=f"it is that of one row at a time, within {TOLERANCE:g}",
            hint="nothing was trained or charged; compare torch with constraints.txt",
        )
