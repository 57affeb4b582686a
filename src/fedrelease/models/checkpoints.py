"""Less memory in training: a layer keeps what it was given, and computes the rest again on the way back.

Example::

    with recomputed(model):
        loss.backward()              # the same gradients, by example or not; one layer's inner values at a time

Source: Chen et al. (2016), https://arxiv.org/abs/1604.06174. Whatever is random in a layer has to be the same the second time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from fedrelease.errors import ModelError

__all__ = ["layers_of", "recomputed"]


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The base's layers, lowest first; none where it does not keep them in one list."""
    config: Any = getattr(getattr(model, "encoder", None), "config", None)
    count = getattr(config, "num_hidden_layers", None)
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return list(next((found for found in lists if len(found) == count), ()))


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Within it each layer of the base in which something is trained is computed twice.

    Raises:
        ModelError: the model has no such layers.
    """
    layers = [layer for layer in layers_of(model) if any(value.requires_grad for value in layer.parameters())]
    if not layers:
        raise ModelError(
            "nothing can be computed again on the way back",
            value=type(model).__name__,
            rule="training.checkpointing is for bases with a list of layers in which something is trained",
            hint="leave training.checkpointing out, and set training.micro_batch lower",
        )
    try:
        for layer in layers:
            again = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
            vars(layer)["forward"] = again  # found before the class' own
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
