"""LoRA factors in a state: which layers have them, what lies frozen beside them, and the state of a site with fewer ranks.

Example::

    layers_of(state)                        # ('encoder.layer.5.attention.self.query', ...)
    truncated(state, 4)                     # the first 4 rows of each A, the first 4 columns of each B, all else as it was
    trained_part(state)                     # the state without residuals: what sites train and send
"""

from collections.abc import Collection

from torch import Tensor

from fedrelease.update import State

__all__ = [
    "CORE",
    "FIRST",
    "OWN_FIRST",
    "OWN_SECOND",
    "RESIDUAL",
    "SECOND",
    "is_factor",
    "layers_of",
    "received_by",
    "residuals_of",
    "trained_part",
    "truncated",
]

FIRST = ".lora_A"
"""What the name of a layer's factor A ends in, ``[rank, in]``."""
SECOND = ".lora_B"
"""What the name of its factor B ends in, ``[out, rank]``; the layer adds ``alpha / rank * B A`` to its weight."""
OWN_FIRST = ".own_A"
"""What the name of the factor A of a site's own pair ends in, ``[own rank, in]``, where a layer has a second pair."""
OWN_SECOND = ".own_B"
"""What the name of that pair's B ends in, ``[out, own rank]``: the layer adds ``alpha / rank * own_B own_A`` as well."""
CORE = ".lora_R"
"""What the name of a layer's core ends in, ``[rank, rank]``, where it has one instead of factors."""
RESIDUAL = ".residual"
"""What the name of its residual ends in, ``[out, in]``, where it has one: it adds ``alpha / rank * (B A + residual)``."""


def layers_of(names: Collection[str]) -> tuple[str, ...]:
    """The layers that have both factors, sorted."""
    firsts = (name.removesuffix(FIRST) for name in names if name.endswith(FIRST))
    return tuple(sorted(layer for layer in firsts if layer + SECOND in names))


def is_factor(name: str) -> bool:
    """Whether a tensor of this name is a LoRA factor."""
    return name.endswith((FIRST, SECOND))


def residuals_of(names: Collection[str]) -> frozenset[str]:
    """The residuals among tensors: a tensor of such a name that lies beside no factors is none."""
    return frozenset(layer + RESIDUAL for layer in layers_of(names) if layer + RESIDUAL in names)


def trained_part(state: State) -> dict[str, Tensor]:
    """The same tensors without residuals, which every site is sent and none trains or sends back."""
    frozen = residuals_of(state.keys())
    return {name: tensor for name, tensor in state.items() if name not in frozen}


def truncated(state: State, rank: int) -> dict[str, Tensor]:
    """The state of a site with ``rank``: views of the leading rows of A and columns of B; other tensors are the same ones."""
    return {name: _leading(name, tensor, rank) for name, tensor in state.items()}


def received_by(state: State, rank: int) -> dict[str, Tensor]:
    """What a site with ``rank`` starts to train from, of the state that went out to all."""
    return truncated(trained_part(state), rank)


def _leading(name: str, tensor: Tensor, rank: int) -> Tensor:
    if name.endswith(FIRST):
        return tensor[:rank]
    return tensor[:, :rank] if name.endswith(SECOND) else tensor
