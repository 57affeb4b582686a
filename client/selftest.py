"""Before a process trains privately: are the gradients of single examples what they are taken for?

Example::

    check_gradients(model, site.train)       # ModelError names the parameter that disagrees

Clipping bounds what it is given. Should a new version of torch, PEFT or transformers let a layer's gradients by example be wrong,
nothing would fail and the promise would be empty; so they are compared with one example at a time, through PEFT's own layers.
"""

from contextlib import nullcontext
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedrelease.client.selftest_books import check_books
from fedrelease.client.selftest_truth import EXAMPLES, TOLERANCE, compare, shaken
from fedrelease.client.training import summed_loss
from fedrelease.data.row_files import Rows
from fedrelease.models.bookkeeping import keeps_books
from fedrelease.models.checkpoints import recomputed
from fedrelease.models.classifier import canonical_name
from fedrelease.models.per_example import per_example, plain_layers

__all__ = ["check_gradients"]

_CHECKED: WeakKeyDictionary[nn.Module, set[frozenset[str]]] = WeakKeyDictionary()


def check_gradients(model: nn.Module, rows: Rows, *, again: bool = False) -> None:
    """Compare on the first rows, once for a model and what is trained of it; the model is left as it was.

    Args:
        again: whether training computes layers again on the way back; they are checked as they are trained.

    Raises:
        ModelError: a parameter's gradients disagree.
    """
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    done = _CHECKED.setdefault(model, set())
    what = frozenset({*trained, *(["again"] if again else [])})
    if what not in done:
        with recomputed(model) if again else nullcontext():
            _check(model.eval(), rows, trained)
        done.add(what)


def _check(model: nn.Module, rows: Rows, trained: dict[str, nn.Parameter]) -> None:
    with shaken(trained):
        if keeps_books(model):
            check_books(model, rows, trained)
            return
        found, expected = _together(model, rows, trained), _singly(model, rows, trained)
    allowed = TOLERANCE[next(model.parameters()).dtype]
    for name, gradients in found.items():
        what = f"the gradients by example of {canonical_name(name)} are"
        compare(what, gradients, expected[name], allowed=allowed)


def _together(model: nn.Module, rows: Rows, trained: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    with per_example(model):
        torch.autograd.backward(summed_loss(model, rows, torch.arange(min(EXAMPLES, len(rows)))))
        return {name: value.grad_sample for name, value in trained.items()}  # type: ignore[attr-defined]  # Opacus' name


def _singly(model: nn.Module, rows: Rows, trained: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    with plain_layers(model):
        each = [
            torch.autograd.grad(summed_loss(model, rows, torch.tensor([row])), list(trained.values()))
            for row in range(min(EXAMPLES, len(rows)))
        ]
    return {name: torch.stack([one[place] for one in each]) for place, name in enumerate(trained)}
