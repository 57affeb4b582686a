"""In which form a state travels from the server to its sites, and what they then begin from.

Example::

    travels = narrowed(state, transport)             # float16 where the experiment says so: half the bytes
    begins = as_received(state, transport)           # float32 again, as every site reads it; the server counts from there too

A site's update is the difference to what it received, and not to what the server has: rounding on the way down is in no
update, and is not summed up over rounds. With ``float32`` everything here is the state itself, bit for bit.

Guarantees: ``as_received`` of what was received is the same again. A simulation and a deployment round alike: both do it here.
"""

import torch
from torch import Tensor

from fedrelease.errors import ExperimentError
from fedrelease.transport import Transport
from fedrelease.update import State

__all__ = ["as_received", "narrowed", "widened"]


def narrowed(state: State, transport: Transport) -> dict[str, Tensor]:
    """What travels: each float32 tensor in half precision where that is wished, rounded to the nearest.

    Raises:
        ExperimentError: half precision cannot hold a number of the state.
    """
    if not transport.is_narrow:
        return dict(state)
    return {name: _half(name, tensor) for name, tensor in state.items()}


def widened(arrays: State, transport: Transport) -> dict[str, Tensor]:
    """What arrives, to compute with: float32 again."""
    return {name: tensor.float() for name, tensor in arrays.items()} if transport.is_narrow else dict(arrays)


def as_received(state: State, transport: Transport) -> dict[str, Tensor]:
    """What sites begin from that are sent this state.

    Raises:
        ExperimentError: as :func:`narrowed`.
    """
    return widened(narrowed(state, transport), transport)


def _half(name: str, tensor: Tensor) -> Tensor:
    half = tensor.half()
    if not bool(torch.isfinite(half).all()):
        raise ExperimentError(
            f"the state has a number in {name} that float16 cannot hold",
            value=float(tensor.abs().max()),
            rule=f"transport.down = float16 takes numbers of at most {torch.finfo(torch.float16).max:g}",
            hint="leave transport.down out: it is another experiment then, with a store of its own",
        )
    return half
