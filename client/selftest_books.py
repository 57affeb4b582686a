"""Before a process trains every weight privately: are lengths and sums of gradients what they are taken for?

Example::

    check_books(model, rows, trained)        # ModelError names the parameter whose lengths or sum disagree

The counterpart of :mod:`fedrelease.client.selftest` where no example's gradient is formed.
"""

from collections.abc import Mapping

import torch
from torch import nn

from fedrelease.client.selftest_truth import EXAMPLES, Truth, compare, one_at_a_time
from fedrelease.client.training import summed_loss
from fedrelease.data.row_files import Rows
from fedrelease.models.bookkeeping import book_keeping, form_sums, squared_lengths
from fedrelease.models.classifier import canonical_name
from fedrelease.models.per_example import plain_layers
from fedrelease.models.precision import matmul

__all__ = ["check_books"]

TOLERANCE = 1e-3
LEAST = 1e-3
"""Of the whole gradient's length. Some parameters have a gradient that is zero but for rounding: the bias of attention's keys."""


def check_books(model: nn.Module, rows: Rows, trained: Mapping[str, nn.Parameter]) -> None:
    """Compare the books of the first rows with one example at a time, parameter by parameter.

    Raises:
        ModelError: they disagree, or a parameter is tied or in a layer that cannot be booked.
    """
    examples = min(EXAMPLES, len(rows))
    with matmul("highest"):
        found = _booked(model, rows, trained, examples)
        with plain_layers(model):
            truth = one_at_a_time(trained, lambda row: summed_loss(model, rows, torch.tensor([row])), examples=examples)
    for part, one, other in (("lengths", found.lengths, truth.lengths), ("sums", found.sums, truth.sums)):
        least = LEAST * float(torch.stack([value.norm() for value in other.values()]).norm())
        for name in trained:
            what = f"of the gradients by example of {canonical_name(name)} the {part} are"
            compare(what, one[name], other[name], allowed=TOLERANCE, least=least)


def _booked(model: nn.Module, rows: Rows, trained: Mapping[str, nn.Parameter], examples: int) -> Truth:
    with book_keeping(model) as books:
        torch.autograd.backward(summed_loss(model, rows, torch.arange(examples)))
        squares = squared_lengths(books)
        form_sums(books, torch.ones(examples))
        return Truth(
            lengths={name: squares[value].sqrt() for name, value in trained.items()},
            sums={name: value.summed_grad for name, value in trained.items()},  # type: ignore[attr-defined]
        )
