"""Where nobody asks for privacy: is the gradient of some rows the sum of those of one row at a time?

Example::

    check_plain(model, rows)                 # ModelError names the parameter that disagrees

The counterpart of :mod:`fedrelease.client.selftest` without privacy, whose layers also have a backward pass of their own.
"""

import torch
from torch import nn

from fedrelease.client.selftest_truth import EXAMPLES, TOLERANCE, compare, one_at_a_time, shaken
from fedrelease.client.training import summed_loss
from fedrelease.data.row_files import Rows
from fedrelease.models.classifier import canonical_name
from fedrelease.models.per_example import plain_layers
from fedrelease.models.precision import matmul

__all__ = ["check_plain"]

LEAST = 1e-3
"""Of the whole gradient's length: what is shorter may be rounding."""


def check_plain(model: nn.Module, rows: Rows) -> None:
    """Compare on the first rows; the model is left as it was.

    Raises:
        ModelError: a parameter's gradient disagrees.
    """
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    examples = min(EXAMPLES, len(rows))
    with shaken(trained), matmul("highest"):
        found = torch.autograd.grad(summed_loss(model.eval(), rows, torch.arange(examples)), list(trained.values()))
        with plain_layers(model):
            truth = one_at_a_time(trained, lambda row: summed_loss(model, rows, torch.tensor([row])), examples=examples)
    allowed = TOLERANCE[next(model.parameters()).dtype]
    least = LEAST * float(torch.stack([value.norm() for value in truth.sums.values()]).norm())
    for name, gradient in zip(trained, found, strict=True):
        what = f"the gradient of {canonical_name(name)} is"
        compare(what, gradient, truth.sums[name], allowed=allowed, least=least)
