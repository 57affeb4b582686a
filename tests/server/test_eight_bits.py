"""Eight bits: what is rounded, with which scale, and what it does not spoil."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, save_model
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

from fedrelease.server.exports.onnx_file import BLOCK, open_session, quantise, run


def quantised(tmp_path: Path, node: NodeProto, kind: int, **weights: NDArray[np.float32]) -> Path:
    """A graph of one node, ``given`` to ``logits``, in eight bits."""
    given = make_tensor_value_info("given", kind, ["rows", "width"])
    logits = make_tensor_value_info("logits", TensorProto.FLOAT, None)
    held = [from_array(value, name) for name, value in weights.items()]
    graph = make_graph([node], "one", [given], [logits], initializer=held)
    save_model(make_model(graph, opset_imports=[make_opsetid("", 20)], ir_version=10), tmp_path / "whole")
    quantise(tmp_path / "whole", tmp_path / "small")
    return tmp_path / "small"


def product(tmp_path: Path, weight: NDArray[np.float32]) -> Path:
    return quantised(tmp_path, make_node("MatMul", ["given", "weight"], ["logits"]), TensorProto.FLOAT, weight=weight)


def test_each_row_of_a_table_has_its_own_scale(tmp_path: Path) -> None:
    table = np.array([[1.27, 0.504], [0, 0], [-254, 3.5]], np.float32)
    path = quantised(tmp_path, make_node("Gather", ["table", "given"], ["logits"]), TensorProto.INT64, table=table)
    found = run(open_session(path), torch.tensor([[2, 0, 1, 0]]))
    # 1.27 / 127 = 0.01: 127 and 50 of them; 254 / 127 = 2: -127 and 2 of them; a row of zeros stays one
    rows = torch.tensor([[1.27, 0.50], [0.0, 0.0], [-254.0, 4.0]])
    assert found.shape == (1, 4, 2) and torch.allclose(found[0], rows[[2, 0, 1, 0]], atol=1e-6)
    assert table.astype(np.float32).tobytes() not in path.read_bytes()


def test_a_large_input_spoils_nothing_outside_its_block(tmp_path: Path) -> None:
    weight = np.zeros((2 * BLOCK, 2), np.float32)
    weight[:BLOCK, 0] = weight[BLOCK:, 1] = 1
    given = torch.full((1, 2 * BLOCK), 0.5)
    given[0, 0] = 1000
    found = run(open_session(product(tmp_path, weight)), given)
    # with one scale for the row, 1000 / 127 = 7.9, each 0.5 of the second block would be rounded to nothing
    assert float(found[0, 1]) == pytest.approx(BLOCK * 0.5, abs=0.01)


def test_an_answer_does_not_depend_on_the_rows_beside_it(tmp_path: Path) -> None:
    numbers = np.random.default_rng(5)
    weight = numbers.normal(size=(BLOCK, 3)).astype(np.float32)
    given = torch.from_numpy(numbers.normal(size=(2, BLOCK)).astype(np.float32))
    given[1] *= 100
    session = open_session(product(tmp_path, weight))
    assert torch.allclose(run(session, given)[:1], run(session, given[:1]), atol=1e-5)


def test_eight_bits_are_off_by_what_rounding_explains(tmp_path: Path) -> None:
    numbers = np.random.default_rng(6)
    weight, given = (numbers.uniform(-1, 1, size).astype(np.float32) for size in ((2 * BLOCK, 3), (4, 2 * BLOCK)))
    found = run(open_session(product(tmp_path, weight)), torch.from_numpy(given)).numpy()
    # each number is off by at most half of 1 / 127, so each of the 64 products by at most about 1 / 127
    assert np.abs(found - given @ weight).max() <= 2 * BLOCK * (1 / 127 + 1 / 254**2)
    assert not np.array_equal(found, given @ weight), "they were rounded"


def test_the_quantiser_says_nothing_and_leaves_the_logging_of_the_process_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.delitem(
        sys.modules, "onnxruntime.quantization.matmul_nbits_quantizer", raising=False
    )  # it speaks when imported
    level = logging.root.level
    product(tmp_path, np.ones((BLOCK, 1), np.float32))
    assert (logging.root.handlers, logging.root.level, capsys.readouterr().err) == ([], level, "")
