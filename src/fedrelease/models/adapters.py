"""What an experiment trains of a base: LoRA's factors, a core between frozen directions, or weights of its own, by layer.

Example::

    put_adapter(encoder, experiment.model.adapter)
"""

from collections.abc import Callable, Mapping, Set
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter
from fedrelease.models.bottleneck import put_bottlenecks
from fedrelease.models.directions import directions
from fedrelease.models.layers import chosen_layers, in_layers
from fedrelease.models.own_weights import thaw_layers, thaw_norms
from fedrelease.models.per_example import CoreLinear, LoraLinear

__all__ = ["put_adapter"]

ATTENTION_TARGETS = (
    ("query", "value"),
    ("q_proj", "v_proj"),
    ("q_lin", "v_lin"),
    ("q", "v"),
    ("c_attn",),
    ("query_key_value",),
)


def put_adapter(encoder: nn.Module, adapter: Adapter) -> None:
    """Put what is trained into ``encoder``, all of which is frozen; nothing where every weight is trained, or the head alone.

    Raises:
        ModelError: the base lacks the layers or modules that the adapter names.
    """
    PUT.get(adapter.kind, _leave)(encoder, adapter)


def _leave(encoder: nn.Module, adapter: Adapter) -> None:
    """The whole model is looked at elsewhere, where its head is."""


def _inject(encoder: nn.Module, adapter: Adapter) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    chosen = _chosen(encoder, adapter)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=0.0,
        use_rslora=adapter.rank_stabilised,
        target_modules=chosen,
        fan_in_fan_out=type(encoder.get_submodule(chosen[0])).__name__ == "Conv1D",
    )
    inject_adapter_in_model(config, encoder)
    for name in chosen:
        layer: Any = encoder.get_submodule(name)
        layer.__class__ = LoraLinear
        layer.register_parameter("residual", _residual(layer) if adapter.residual else None)
        for factor, value in _own_pair(layer, adapter.own_rank).items():
            layer.register_parameter(factor, value)
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _put_cores(encoder: nn.Module, adapter: Adapter) -> None:
    """Wrap each chosen layer; PEFT has no adapter of this form that starts from the weight alone."""
    for name in _chosen(encoder, adapter):
        layer = encoder.get_submodule(name)
        weight = cast(Tensor, layer.weight)
        turned = weight.T if type(layer).__name__ == "Conv1D" else weight
        first, second = directions(turned, adapter.rank)
        core = CoreLinear(layer, first, second, scaling=adapter.scaling)
        parent, _, last = name.rpartition(".")
        setattr(encoder.get_submodule(parent), last, core)


def _residual(layer: LoraLinear) -> nn.Parameter:
    """Zero, ``[out, in]``, float32 whatever the base's precision: small changes of many rounds add up in it."""
    return nn.Parameter(torch.zeros(layer.out_features, layer.in_features), requires_grad=False)


def _own_pair(layer: LoraLinear, rank: int) -> Mapping[str, nn.Parameter | None]:
    """A second pair of factors, float32, which begins by adding nothing; its A is drawn with all else that is. 0: none."""
    shapes = {"own_A": (rank, layer.in_features), "own_B": (layer.out_features, rank)}
    return {name: nn.Parameter(torch.zeros(shape)) if rank else None for name, shape in shapes.items()}


def _chosen(encoder: nn.Module, adapter: Adapter) -> list[str]:
    """Full names of the modules that get factors.

    Not PEFT's own choice by layer, which finds none in bases that keep their layers at the top; and never in the base's pooler:
    what that gives is not used, so that trained it would have no gradient.
    """
    linear = [
        name
        for name, module in encoder.named_modules()
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D") and "pooler" not in name.split(".")
    ]
    if not linear:
        raise ModelError(
            "the base has no linear layer for an adapter",
            value=adapter.kind,
            rule="an adapter is put on linear layers; this base has layers of other kinds only, such as convolutions",
            hint='set [model.adapter] kind = "head", or "full"',
        )
    targets = _targets({name.rsplit(".", 1)[-1] for name in linear}, adapter.targets)
    layers = chosen_layers(encoder, adapter.layers)
    chosen = [name for name in linear if name.rsplit(".", 1)[-1] in targets and in_layers(name, layers)]
    if not chosen:
        raise ModelError(
            "the base has no such modules in these layers",
            value=f"{adapter.targets} in {adapter.layers}",
            rule="its modules are named by their layer, for example encoder.layer.5.attention.self.query",
            hint='set [model.adapter] layers = "all"',
        )
    return chosen


def _targets(linear: Set[str], targets: str) -> tuple[str, ...]:
    if targets == "all-linear":
        return tuple(sorted(linear))
    wanted = [tuple(targets.split(","))] if targets != "attention" else ATTENTION_TARGETS
    for group in wanted:
        if set(group) <= linear:
            return group
    raise ModelError(
        "the base has no such modules",
        value=targets,
        rule=f"model.adapter.targets names some of {', '.join(sorted(linear))}",
        hint='set [model.adapter] targets = "all-linear"',
    )


PUT: Mapping[str, Callable[[nn.Module, Adapter], None]] = {
    "bottleneck": put_bottlenecks,
    "layers": thaw_layers,
    "lora": _inject,
    "lora-sb": _put_cores,
    "norms": thaw_norms,
}
