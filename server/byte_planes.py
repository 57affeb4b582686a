"""What differs between two files of numbers, in a form that packs well, and back.

Example::

    mixed = difference(piece, other, 4)                    # small where the numbers are near each other
    restored(mixed, other, 4) == piece
    planes(mixed, 4)                                       # the bytes that are mostly zero, side by side
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["difference", "numbers", "planes", "restored", "xored"]

WIDTHS = (1, 2, 4, 8)
"""Bytes of numbers that can be subtracted; those of another width are XORed."""


def planes(piece: bytes, width: int) -> bytes:
    """All first bytes of the numbers, then all second bytes ...; a rest that is no whole number stays at the end."""
    end = len(piece) // width * width
    return np.frombuffer(piece[:end], np.uint8).reshape(-1, width).T.tobytes() + piece[end:]


def numbers(piece: bytes, width: int) -> bytes:
    """What :func:`planes` was given."""
    end = len(piece) // width * width
    return np.frombuffer(piece[:end], np.uint8).reshape(width, -1).T.tobytes() + piece[end:]


def xored(piece: bytes, other: bytes) -> bytes:
    """The bytes XOR as many others."""
    return (np.frombuffer(piece, np.uint8) ^ np.frombuffer(other, np.uint8)).tobytes()


def difference(piece: bytes, other: bytes, width: int) -> bytes:
    """How many representable numbers lie between each pair, as 0, -1, 1, -2, 2 ... -> 0, 1, 2, 3, 4 ...; a rest is XORed.

    A number that crosses a power of two changes all its bits and XOR grows with it; the count of what lies between stays small.

    Source: Lindstrom and Isenburg (2006), https://doi.org/10.1109/TVCG.2006.143, section 3.2: floats in the order of integers.
    """
    if width not in WIDTHS:
        return xored(piece, other)
    end = len(piece) // width * width
    apart = _ordered(piece[:end], width) - _ordered(other[:end], width)
    folded = (apart << 1) ^ (apart >> (8 * width - 1))
    return folded.tobytes() + xored(piece[end:], other[end:])


def restored(mixed: bytes, other: bytes, width: int) -> bytes:
    """What :func:`difference` was given first."""
    if width not in WIDTHS:
        return xored(mixed, other)
    end = len(mixed) // width * width
    folded = np.frombuffer(mixed[:end], f"<u{width}")
    apart = (folded >> 1).view(f"<i{width}") ^ -(folded & 1).view(f"<i{width}")
    ordered = apart + _ordered(other[:end], width)
    return _ordered(ordered.tobytes(), width).tobytes() + xored(mixed[end:], other[end:])


def _ordered(piece: bytes, width: int) -> NDArray[np.signedinteger[Any]]:
    """The bits of floats as integers in the order of the floats, for finite ones; done twice, it is as it was."""
    bits: NDArray[np.signedinteger[Any]] = np.frombuffer(piece, f"<i{width}")
    below: NDArray[np.signedinteger[Any]] = bits >> (8 * width - 1)  # all ones where the sign is set
    return bits ^ (below & np.iinfo(bits.dtype).max)
