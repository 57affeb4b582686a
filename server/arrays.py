"""Flower's arrays with one copy of their values instead of three: for rounds of many small updates.

Example::

    record = ArrayRecord({"head.bias": array_of(numpy.zeros(2, dtype="float32"))})   # the bytes that Flower would write
    tensors_of(record)["head.bias"]                                                  # the tensor that Flower would read
"""

import math
from functools import lru_cache
from io import BytesIO

import numpy
import torch
from flwr.app import Array, ArrayRecord
from flwr.common.typing import NDArray
from torch import Tensor

__all__ = ["array_of", "tensors_of"]

FORMAT = "numpy.ndarray"
KINDS = frozenset({"float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"})
MOST_DIMENSIONS = 8


@lru_cache(maxsize=1024)
def _head(kind: str, shape: tuple[int, ...]) -> bytes:
    """What ``numpy.save`` writes before the values of a contiguous array."""
    file = BytesIO()
    layout = {"descr": numpy.lib.format.dtype_to_descr(numpy.dtype(kind)), "fortran_order": False, "shape": shape}
    numpy.lib.format.write_array_header_1_0(file, layout)
    return file.getvalue()


def array_of(values: NDArray) -> Array:
    """As ``Array(values)``, byte for byte."""
    kind = str(values.dtype)
    if kind not in KINDS or values.ndim > MOST_DIMENSIONS or not values.flags.c_contiguous:
        return Array(values)
    return Array(kind, values.shape, FORMAT, b"".join((_head(kind, values.shape), values.data)))


def tensors_of(record: ArrayRecord) -> dict[str, Tensor]:
    """As ``record.to_torch_state_dict()``: bytes that are not exactly what is expected are left to Flower, and to its errors."""
    return {name: torch.from_numpy(_values(array)) for name, array in record.items()}


def _values(array: Array) -> NDArray:
    kind, shape, data = array.dtype, array.shape, array.data
    if array.stype == FORMAT and kind in KINDS and len(shape) <= MOST_DIMENSIONS:
        head = _head(kind, shape)
        size = math.prod(shape) * numpy.dtype(kind).itemsize
        if data.startswith(head) and len(data) == len(head) + size:
            return numpy.frombuffer(data, kind, offset=len(head)).reshape(shape).copy()
    return array.numpy()
