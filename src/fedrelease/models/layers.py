"""Which layers of a base an adapter means, by number and by name.

Example::

    chosen_layers(encoder, "last:2")                  # range(4, 6), of a base with six layers; None means all of it
    in_layers("encoder.layer.5.output.dense", range(4, 6))      # True
"""

from torch import nn

from fedrelease.errors import ModelError

__all__ = ["chosen_layers", "count_layers", "in_layers", "layer_list"]


def layer_list(encoder: nn.Module) -> nn.ModuleList:
    """The base's layers, lowest first; none when it does not keep them in one list."""
    count = getattr(getattr(encoder, "config", None), "num_hidden_layers", None)
    lists = (module for module in encoder.modules() if isinstance(module, nn.ModuleList))
    return next((found for found in lists if len(found) == count), nn.ModuleList())


def count_layers(encoder: nn.Module) -> int:
    """How many layers the base says it has.

    Raises:
        ModelError: it says nothing of layers, as a network of stages does.
    """
    count = getattr(getattr(encoder, "config", None), "num_hidden_layers", None)
    if not isinstance(count, int):
        raise ModelError(
            f"the base ({type(encoder).__name__}) does not count its layers",
            value=getattr(getattr(encoder, "config", None), "model_type", None),
            rule="model.adapter.layers counts the layers of a transformer",
            hint='set [model.adapter] kind = "head" or "full", or choose a transformer',
        )
    return count


def chosen_layers(encoder: nn.Module, layers: str) -> range | None:
    """The numbers of the layers that ``all`` or ``last:k`` means; ``None`` for all of the base.

    Raises:
        ModelError: the base has fewer layers.
    """
    if layers == "all":
        return None
    count, total = int(layers.partition(":")[2]), count_layers(encoder)
    if count > total:
        raise ModelError(
            "the base has fewer layers",
            value=layers,
            rule=f"model.adapter.layers is at most last:{total} for this base",
            hint='set [model.adapter] layers = "all"',
        )
    return range(total - count, total)


def in_layers(name: str, layers: range | None) -> bool:
    """Whether the first number in a module's name, its layer, is one of these; ``None`` means all of the base."""
    return layers is None or next((int(part) in layers for part in name.split(".") if part.isdecimal()), False)
