"""Numbers apart: small where floats are near, and the same bytes again whatever they are."""

import random
import struct

import pytest

from fedrelease.server.byte_planes import difference, numbers, planes, restored


def apart(one: float, other: float) -> int:
    (count,) = struct.unpack("<I", difference(struct.pack("<f", one), struct.pack("<f", other), 4))
    return int(count)


def after(value: float, steps: int) -> float:
    """A positive float so many representable ones further."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    (moved,) = struct.unpack("<f", struct.pack("<I", bits + steps))
    return float(moved)


@pytest.mark.parametrize(("steps", "folded"), [(0, 0), (-1, 1), (1, 2), (-2, 3), (2, 4), (100, 200)])
def test_floats_are_apart_by_the_floats_between_them(steps: int, folded: int) -> None:
    assert apart(after(0.7, steps), 0.7) == folded
    assert apart(-after(0.7, -steps), -after(0.7, 0)) == folded, "in order below zero too"


def test_a_power_of_two_between_them_changes_nothing() -> None:
    assert apart(1.0, after(1.0, -1)) == 2  # XOR would be 0x3f800000 ^ 0x3f7fffff: 24 bits


@pytest.mark.parametrize("width", range(1, 9))
def test_any_bytes_come_back(width: int) -> None:
    chance = random.Random(width)
    special = struct.pack("<6f", float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-45)
    for length in (0, 1, width - 1, 5 * width, 6 * width + width // 2, 200):
        piece, other = (chance.randbytes(length) for _ in "ab")
        assert restored(difference(piece, other, width), other, width) == piece
        assert numbers(planes(piece, width), width) == piece
    assert restored(difference(special, special[::-1], width), special[::-1], width) == special
