"""Before a process trains many sites at once: are lengths and sums of gradients what they are taken for?

Example::

    check_sums(model, job)                   # ModelError names what disagrees

The counterpart of :mod:`fedrelease.client.selftest` for :mod:`fedrelease.client.together`, where no example's gradient is
ever formed.
"""

from weakref import WeakSet

import torch
from torch import nn
from torch.nn import functional

from fedrelease.client.selftest_truth import EXAMPLES, Truth, compare, one_at_a_time
from fedrelease.client.training import Job, summed_loss, training_mode
from fedrelease.models.classifier import canonical_name
from fedrelease.models.network import Network
from fedrelease.models.per_example import plain_layers
from fedrelease.models.stacked import form_sums, gradient_lengths, noted, stacked

__all__ = ["check_sums"]

TOLERANCE = 1e-3
_CHECKED: WeakSet[nn.Module] = WeakSet()


def check_sums(model: Network, job: Job) -> None:
    """Compare lengths and sums with one example at a time, on the job's first rows, once for a model; it is left as it was.

    Raises:
        ModelError: they disagree; the text names the parameter.
    """
    if model in _CHECKED:
        return
    rows = torch.arange(min(EXAMPLES, len(job.rows)))
    truth = _truth(model, job, len(rows))
    with stacked(model, 1), training_mode(model):
        batch = job.rows.batch(rows)
        logits = model(batch.inputs[0][None])[0]
        parts = noted(model, functional.cross_entropy(logits, batch.labels, reduction="sum"))
        lengths = gradient_lengths(parts)
        form_sums(parts, torch.ones(1, len(rows)))
        found = {name: value.grad[0].detach() for name, value in model.named_parameters() if value.grad is not None}
    expected = torch.stack(list(truth.lengths.values())).square().sum(0).sqrt()
    compare("the length of gradients by example is", lengths[0], expected, allowed=TOLERANCE)
    for name, sums in truth.sums.items():
        compare(f"the gradient of {canonical_name(name)} is", found[name], sums, allowed=TOLERANCE)
    _CHECKED.add(model)


def _truth(model: Network, job: Job, examples: int) -> Truth:
    trained = dict(model.named_parameters())
    with plain_layers(model):
        return one_at_a_time(trained, lambda row: summed_loss(model, job.rows, torch.tensor([row])), examples=examples)
