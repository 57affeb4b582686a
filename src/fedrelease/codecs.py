"""Codecs of updates: one flat vector in, a few small arrays out, and back.

Example::

    vector = flat(delta)                                              # float32 [numbers], names sorted
    payload = encode(vector, Transport(codec="int8"))                 # {"codes": int8 [numbers], "scales": float32 [blocks]}
    shaped(decode(payload, len(vector), Transport(codec="int8")), delta)

Every number that is exactly 0 is still 0 after the way there and back, whatever the codec. A payload carries no names and no
shapes: its reader knows them, and refuses arrays of any other length.

With error feedback numbers are rounded to the nearest level: the error is smaller than what was to be sent, which is what error
feedback needs. Without it they are rounded at random, up or down, so that the mean of what arrives is what was to be sent.

Source: blocks with a scale, rounded at random: Alistarh et al. (2017), https://arxiv.org/abs/1610.02132 (QSGD, section 3.1, here
with the largest number as the norm). The largest numbers: Lin et al. (2018), https://arxiv.org/abs/1712.01887. Error feedback:
Karimireddy et al. (2019), https://arxiv.org/abs/1901.09847.
"""

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from fedrelease.errors import UpdateRefused
from fedrelease.transport import Transport
from fedrelease.update import State

__all__ = ["Payload", "decode", "encode", "flat", "kept_count", "shaped"]

Payload: TypeAlias = Mapping[str, Tensor]
"""Arrays of one dimension, by the name that the codec gives them."""

LEVELS = {"int4": 7, "int8": 127}
"""Steps on either side of zero."""
MOST_NUMBERS = 2**31 - 1
"""An index of int32 tells no more apart."""
ZERO = 8
"""The half byte of a zero; 0 itself stands for nothing."""


def flat(state: State) -> Tensor:
    """All numbers of a state, float32 ``[numbers]``: its tensors one after the other, names sorted."""
    return torch.cat([torch.zeros(0), *(state[name].detach().float().reshape(-1) for name in sorted(state))])


def shaped(vector: Tensor, like: State) -> dict[str, Tensor]:
    """What :func:`flat` made flat, in the shapes of ``like``."""
    parts = torch.split(vector, [like[name].numel() for name in sorted(like)])
    return {name: part.reshape(like[name].shape) for name, part in zip(sorted(like), parts, strict=True)}


def kept_count(length: int, keep: float) -> int:
    """How many of ``length`` numbers ``top-k`` sends: at least one, where there is any."""
    return min(length, max(1, math.ceil(length * keep)))


def encode(vector: Tensor, transport: Transport, numbers: torch.Generator | None = None) -> dict[str, Tensor]:
    """What travels of a vector.

    Args:
        vector: float32 ``[numbers]``.
        numbers: where random rounding draws from; left out = round to the nearest.

    Raises:
        UpdateRefused: a number is not finite, or too large or too many for the codec.
    """
    if not bool(torch.isfinite(vector).all()):
        raise UpdateRefused("the update is not finite", hint="lower training.lr")
    return _ENCODERS[transport.codec](vector, transport, numbers)


def decode(payload: Payload, length: int, transport: Transport) -> Tensor:
    """The vector, float32 ``[length]``, of a payload that may come from a stranger.

    Raises:
        UpdateRefused: it is not what the codec makes of ``length`` numbers; the text says which array, and why.
    """
    _check_layout(payload, _layout(length, transport), transport.codec)
    return _DECODERS[transport.codec](payload, length, transport)


def _layout(length: int, transport: Transport) -> dict[str, tuple[torch.dtype, int]]:
    """Kind and length of each array of a payload."""
    blocks, kept = -(-length // transport.block), kept_count(length, transport.keep)
    return {
        "float16": {"values": (torch.float16, length)},
        "float32": {"values": (torch.float32, length)},
        "int4": {"codes": (torch.uint8, -(-length // 2)), "scales": (torch.float32, blocks)},
        "int8": {"codes": (torch.int8, length), "scales": (torch.float32, blocks)},
        "top-k": {"indices": (torch.int32, kept), "values": (torch.float32, kept)},
    }[transport.codec]


def _check_layout(payload: Payload, expected: Mapping[str, tuple[torch.dtype, int]], codec: str) -> None:
    if payload.keys() != expected.keys():
        rule = f"with transport.codec = {codec} they are {', '.join(expected)}"
        raise UpdateRefused("the coded update has other arrays", value=sorted(payload)[:4], rule=rule)
    for name, (kind, size) in expected.items():
        tensor = payload[name]
        if tensor.dtype != kind or tensor.shape != (size,):
            found = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            rule = f"{str(kind).removeprefix('torch.')} [{size}]"
            raise UpdateRefused(f"the coded update's {name} have another form", value=found, rule=rule)


def _refused(name: str, value: object, rule: str) -> UpdateRefused:
    return UpdateRefused(f"the coded update's {name} are not in order", value=value, rule=rule)


def _to_float32(vector: Tensor, transport: Transport, numbers: torch.Generator | None) -> dict[str, Tensor]:
    del transport, numbers
    return {"values": vector}


def _to_float16(vector: Tensor, transport: Transport, numbers: torch.Generator | None) -> dict[str, Tensor]:
    del transport, numbers
    values = vector.half()
    if not bool(torch.isfinite(values).all()):
        raise UpdateRefused(
            "the update has a number that float16 cannot hold",
            value=float(vector.abs().max()),
            rule=f"at most {torch.finfo(torch.float16).max:g}",
            hint="set transport.codec = int8, or lower training.lr",
        )
    return {"values": values}


def _from_values(payload: Payload, length: int, transport: Transport) -> Tensor:
    del length, transport
    return _finite("values", payload["values"].float())


def _finite(name: str, tensor: Tensor) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise _refused(name, "a number that is not finite", "every number is finite")
    return tensor


def _to_int8(vector: Tensor, transport: Transport, numbers: torch.Generator | None) -> dict[str, Tensor]:
    codes, scales = _levels(vector, transport, numbers)
    return {"codes": codes.to(torch.int8), "scales": scales}


def _to_int4(vector: Tensor, transport: Transport, numbers: torch.Generator | None) -> dict[str, Tensor]:
    """Two codes a byte, the first in the lower half; a last half that nobody needs is a zero's."""
    codes, scales = _levels(vector, transport, numbers)
    halves = functional.pad((codes + ZERO).to(torch.uint8), (0, len(codes) % 2), value=ZERO)
    return {"codes": halves[0::2] | (halves[1::2] << 4), "scales": scales}


def _levels(vector: Tensor, transport: Transport, numbers: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Whole numbers ``[numbers]``, at most the codec's levels from zero, and what each block's are multiplied by ``[blocks]``."""
    most = LEVELS[transport.codec]
    blocks = functional.pad(vector, (0, -len(vector) % transport.block)).view(-1, transport.block)
    scales = blocks.abs().amax(dim=1) / most
    shares = torch.where(scales[:, None] > 0, blocks / scales[:, None], 0.0)
    rounded = shares.round() if numbers is None else (shares + torch.rand(shares.shape, generator=numbers)).floor()
    return rounded.clamp(-most, most).view(-1)[: len(vector)], scales


def _from_int8(payload: Payload, length: int, transport: Transport) -> Tensor:
    del length
    return _scaled(payload["codes"].float(), payload["scales"], transport)


def _from_int4(payload: Payload, length: int, transport: Transport) -> Tensor:
    halves = torch.stack([payload["codes"] & 15, payload["codes"] >> 4], dim=1).view(-1).float() - ZERO
    if bool(halves[length:].any()):
        raise _refused("codes", "something behind the last number", "the last half byte is a zero's")
    return _scaled(halves[:length], payload["scales"], transport)


def _scaled(codes: Tensor, scales: Tensor, transport: Transport) -> Tensor:
    most = LEVELS[transport.codec]
    if bool((codes < -most).any()):
        raise _refused("codes", float(codes.min()), f"between {-most} and {most}")
    if not bool(((scales >= 0) & torch.isfinite(scales)).all()):
        raise _refused("scales", "one that is negative or not finite", "every scale is a finite number of at least 0")
    blocks = functional.pad(codes, (0, -len(codes) % transport.block)).view(-1, transport.block)
    return _finite("scales", (blocks * scales[:, None]).view(-1)[: len(codes)])


def _to_largest(vector: Tensor, transport: Transport, numbers: torch.Generator | None) -> dict[str, Tensor]:
    """The numbers furthest from zero by their places, in order; of equally large ones the first."""
    del numbers
    if len(vector) > MOST_NUMBERS:
        raise UpdateRefused("too many numbers for top-k", value=len(vector), rule=f"at most {MOST_NUMBERS}")
    sizes, count = vector.abs(), kept_count(len(vector), transport.keep)
    least = sizes.topk(count).values.min() if count else torch.zeros(())
    above, equal = (sizes > least).nonzero().view(-1), (sizes == least).nonzero().view(-1)
    places = torch.cat([above, equal[: count - len(above)]]).sort().values
    return {"indices": places.to(torch.int32), "values": vector[places]}


def _from_largest(payload: Payload, length: int, transport: Transport) -> Tensor:
    del transport
    places, values = payload["indices"].long(), _finite("values", payload["values"])
    if len(places) and (bool((places[1:] <= places[:-1]).any()) or not 0 <= int(places[0]) <= int(places[-1]) < length):
        raise _refused("indices", "one out of range or out of order", f"they rise, from 0 to {length - 1} at most")
    return torch.zeros(length).index_copy(0, places, values)


Encoder: TypeAlias = Callable[[Tensor, Transport, torch.Generator | None], dict[str, Tensor]]
Decoder: TypeAlias = Callable[[Payload, int, Transport], Tensor]
_ENCODERS: Mapping[str, Encoder] = {
    "float16": _to_float16,
    "float32": _to_float32,
    "int4": _to_int4,
    "int8": _to_int8,
    "top-k": _to_largest,
}
_DECODERS: Mapping[str, Decoder] = {
    "float16": _from_values,
    "float32": _from_values,
    "int4": _from_int4,
    "int8": _from_int8,
    "top-k": _from_largest,
}
