"""Training some of the base's own weights: whole layers, or their normalisations alone. Each starts from what the base has.

Example::

    thaw_layers(encoder, Adapter(kind="layers", layers="last:1"))        # requires_grad of every weight of the last layer
    thaw_norms(encoder, Adapter(kind="norms", layers="all"))             # of weight and bias of each LayerNorm
"""

from collections.abc import Iterable

from torch import nn

from fedrelease.adapter import Adapter
from fedrelease.errors import ModelError
from fedrelease.models.layers import chosen_layers, count_layers, in_layers

__all__ = ["thaw_layers", "thaw_norms"]


def thaw_layers(encoder: nn.Module, adapter: Adapter) -> None:
    """Let every weight of these layers be trained; tables of words and what comes after the last layer stay frozen.

    Raises:
        ModelError: the base has fewer layers, or does not name its weights by their layer.
    """
    layers = chosen_layers(encoder, adapter.layers) or range(count_layers(encoder))
    _thaw((value for name, value in encoder.named_parameters() if in_layers(name, layers)), adapter)


def thaw_norms(encoder: nn.Module, adapter: Adapter) -> None:
    """Let weights and biases of normalisations in these layers be trained; with ``all``, those before and after them, too.

    Source: Zhao et al. (2023), https://arxiv.org/abs/2312.11420, section 3; of layers by Ba et al. (2016),
    https://arxiv.org/abs/1607.06450, and of their like: all that have Norm in the name of their class.

    Raises:
        ModelError: there are none.
    """
    layers = chosen_layers(encoder, adapter.layers)
    found = (module for name, module in encoder.named_modules() if _is_norm(module) and in_layers(name, layers))
    _thaw((value for module in found for value in module.parameters(recurse=False)), adapter)


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__


def _thaw(values: Iterable[nn.Parameter], adapter: Adapter) -> None:
    thawed = [value.requires_grad_(True) for value in values]
    if not thawed:
        raise ModelError(
            f'the base has no such weights for kind = "{adapter.kind}"',
            value=f"layers = {adapter.layers}",
            rule="its weights are named by their layer, for example encoder.layer.5.output.LayerNorm.weight",
            hint='set [model.adapter] layers = "all", or kind = "head"',
        )
