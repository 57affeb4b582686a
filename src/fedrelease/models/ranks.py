"""A resident model with fewer ranks for a while: a site's own, on the one base that is in memory.

Example::

    load_state(model, state)
    with at_rank(model, 4):
        train(model, job)                               # optimizer, clipping and noise see factors of rank 4 only
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from fedrelease.factors import is_factor, truncated
from fedrelease.models.classifier import canonical_name

__all__ = ["at_rank"]


@contextmanager
def at_rank(model: nn.Module, rank: int) -> Iterator[None]:
    """Within it every LoRA factor is a parameter of its leading ``rank`` ranks; afterwards the model has its own ones back.

    What the product is multiplied by, alpha / rank of the experiment, stays as it is, so that products of all ranks add up.
    """
    own = {name: value for name, value in model.named_parameters() if is_factor(canonical_name(name))}
    try:
        for name, value in own.items():
            (leading,) = truncated({canonical_name(name): value.detach()}, rank).values()
            if leading.shape != value.shape:
                _put(model, name, nn.Parameter(leading.clone()))
        yield
    finally:
        for name, value in own.items():
            _put(model, name, value)


def _put(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    module, _, last = name.rpartition(".")
    setattr(model.get_submodule(module), last, parameter)
