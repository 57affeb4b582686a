"""Before a process trains privately: are the gradients of single examples what they are taken for?

Example::

    check_gradients(model, site.train)       # ModelError names the parameter that disagrees

Clipping bounds what it is given. Should a new version of torch, PEFT or transformers let a layer's gradients by example be wrong,
nothing would fail and the promise would be empty; so they are compared with one example at a time, through PEFT's own layers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedrelease.client.sampling import seeded_generator
from fedrelease.client.training import summed_loss
from fedrelease.data.row_files import Rows
from fedrelease.errors import ModelError
from fedrelease.models.classifier import canonical_name
from fedrelease.models.per_example import per_example, plain_layers

__all__ = ["check_gradients"]

EXAMPLES = 4
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Length of the difference over length of the gradient; in bfloat16 the two ways round at different places."""
LEAST = 1e-6
_CHECKED: WeakKeyDictionary[nn.Module, set[frozenset[str]]] = WeakKeyDictionary()


def check_gradients(model: nn.Module, rows: Rows) -> None:
    """Compare on the first rows, once for a model and what is trained of it; the model is left as it was.

    Raises:
        ModelError: a parameter's gradients disagree.
    """
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    done = _CHECKED.setdefault(model, set())
    if frozenset(trained) not in done:
        _check(model.eval(), rows, trained)
        done.add(frozenset(trained))


def _check(model: nn.Module, rows: Rows, trained: dict[str, nn.Parameter]) -> None:
    with _shaken(trained):
        found, expected = _together(model, rows, trained), _singly(model, rows, trained)
    allowed = TOLERANCE[next(model.parameters()).dtype]
    for name, gradients in found.items():
        off = float((gradients - expected[name]).norm() / (expected[name].norm() + LEAST))
        if not off <= allowed:
            raise ModelError(
                f"the gradients by example of {canonical_name(name)} are wrong",
                value=f"off by {off:.3g} of their length",
                rule=f"on {len(gradients)} rows they are those of one row at a time, within {allowed:g}",
                hint="nothing was trained or charged; compare torch, peft and transformers with constraints.txt",
            )


@contextmanager
def _shaken(trained: dict[str, nn.Parameter]) -> Iterator[None]:
    """A factor that is zero hides what is wrong with the other one's gradient."""
    before = {name: value.detach().clone() for name, value in trained.items()}
    numbers = seeded_generator("self-test")
    with torch.no_grad():
        for name in sorted(trained):
            trained[name].add_(0.05 * torch.randn(trained[name].shape, generator=numbers))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                trained[name].copy_(value)


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
