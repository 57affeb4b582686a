"""Which engine makes a model's training private, and whether it can: asked before anything is trained, told or charged.

Example::

    engine_of(model)                         # "formed" for LoRA factors, "booked" where weights of the base are trained
    check_engine(model, rows)                # ModelError names the parameter that has no gradient by example

``formed``: each example's gradient is formed (:mod:`fedrelease.models.per_example`). ``booked``: none is, but their lengths and
their clipped sum are known (:mod:`fedrelease.models.bookkeeping`).
"""

import torch
from torch import Tensor, nn

from fedrelease.data.row_files import Rows
from fedrelease.data.sample import sample_rows
from fedrelease.errors import ModelError
from fedrelease.models.bases import Base
from fedrelease.models.bookkeeping import book_keeping, keeps_books, squared_lengths
from fedrelease.models.per_example import OTHERWISE, per_example
from fedrelease.models.tasks import task_of

__all__ = ["check_engine", "check_private", "engine_of"]

FEW = 2
"""Rows of different lengths, of which one is padded."""


def engine_of(model: nn.Module) -> str:
    """``booked`` or ``formed``: what a private step of this model is done by."""
    return "booked" if keeps_books(model) else "formed"


def check_private(model: nn.Module, base: Base, *, labels: tuple[str, ...]) -> None:
    """Refuse a model that cannot be trained privately: on rows of its task that are made on the spot, nobody's.

    Raises:
        ModelError: a trained parameter has no gradient by example, or is in a layer that sees none; the text names it.
    """
    with sample_rows(task_of(model), base, labels=labels) as rows:
        check_engine(model, rows)


def check_engine(model: nn.Module, rows: Rows) -> None:
    """Go back through the model once, as a private step does; it is left as it was.

    Raises:
        ModelError: as :func:`check_private`.
    """
    if keeps_books(model):
        with book_keeping(model) as books:
            torch.autograd.backward(_loss(model, rows))
            squared_lengths(books)
    else:
        with per_example(model):
            torch.autograd.backward(_loss(model, rows))
            _check_each_has_its_own(model, min(FEW, len(rows)))


def _check_each_has_its_own(model: nn.Module, examples: int) -> None:
    """A layer may be given something else than examples, such as the places of tokens, which are the same for all."""
    for name, parameter in model.named_parameters():
        found: Tensor | None = getattr(parameter, "grad_sample", None)
        if parameter.requires_grad and (found is None or len(found) != examples):
            raise ModelError(
                "a trained parameter has no gradient by example",
                value=name,
                rule="what is trained privately is in layers that are given [examples, tokens, width]",
                hint=OTHERWISE,
            )


def _loss(model: nn.Module, rows: Rows) -> Tensor:
    batch = rows.batch(range(min(FEW, len(rows))))
    return task_of(model).losses(model(*batch.inputs), batch).sum()
