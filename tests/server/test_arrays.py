"""Flower's arrays, made and read with fewer copies: the twin is Flower itself."""

import numpy
import pytest
import torch
from flwr.app import Array, ArrayRecord

from fedrelease.server.arrays import array_of, tensors_of

KINDS = ("float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool", "complex64", ">f4")
SHAPES = ((), (0,), (3,), (2, 3), (1, 2, 3, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_array_has_the_bytes_that_flower_gives_it(kind: str, shape: tuple[int, ...]) -> None:
    values = numpy.random.default_rng(1).integers(0, 2, shape).astype(kind)
    assert array_of(values) == Array(values)
    assert array_of(values.T) == Array(values.T)


@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_tensor_is_read_as_flower_reads_it_and_may_be_changed(kind: str, shape: tuple[int, ...]) -> None:
    record = ArrayRecord({"x": Array(numpy.random.default_rng(1).integers(0, 2, shape).astype(kind))})
    (found,), (other,) = tensors_of(record).values(), record.to_torch_state_dict().values()
    assert found.dtype == other.dtype and found.shape == other.shape and torch.equal(found, other)
    found.zero_()
    assert torch.equal(next(iter(record.to_torch_state_dict().values())), other)


def array(shape: tuple[int, ...] = (2,), kind: str = "float32", stype: str = "numpy.ndarray", **parts: bytes) -> Array:
    whole = Array(numpy.ones(2, dtype="float32")).data
    return Array(kind, shape, stype, parts.get("data", whole))


WHOLE = array().data


def test_what_an_array_claims_does_not_matter_if_its_bytes_say_otherwise() -> None:
    for claimed in (array((3,)), array((-2,)), array(kind="float64"), array(kind="object"), array(kind="nonsense")):
        assert tensors_of(ArrayRecord({"x": claimed}))["x"].tolist() == [1.0, 1.0]
    turned = Array(numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3)))
    assert tensors_of(ArrayRecord({"x": turned}))["x"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


@pytest.mark.parametrize(
    "broken",
    [
        array(data=WHOLE[:-1]),
        array(data=b""),
        array(data=WHOLE[:20]),
        array(stype="pickle"),
        array((2,) * 40, data=b"\x80\x04."),
    ],
)
def test_bytes_that_are_no_array_raise_what_flower_raises(broken: Array) -> None:
    with pytest.raises((ValueError, TypeError, EOFError)) as ours:
        tensors_of(ArrayRecord({"x": broken}))
    with pytest.raises(type(ours.value)):
        broken.numpy()
