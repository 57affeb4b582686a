"""ONNX: the merged model as one graph with a free number of rows and of tokens, and its eight-bit form.

Example::

    write_onnx(plain, folder / "model.onnx")
    session = open_session(folder / "model.onnx")
    run(session, input_ids, attention_mask)                  # logits, as torch gives them to about 1e-6
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrelease.errors import ModelError
from fedrelease.server.exports.plain import Plain
from fedrelease.server.exports.plain_modules import PlainText

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, NodeProto, TensorProto
    from onnxruntime import InferenceSession

__all__ = ["open_session", "quantise", "run", "write_onnx"]

LARGEST = 1_500_000_000
"""Bytes of weights: one ONNX file is a protocol buffer, which ends at 2 GiB."""
BLOCK = 32
"""Numbers that share a scale. With one scale for all that a product is given, MiniLM changed 3 % of its answers."""
EIGHT_BITS = 4
"""MatMulNBits' ``accuracy_level`` for eight-bit arithmetic; its others round no input, and are slower than float32."""


def write_onnx(plain: Plain, path: Path) -> None:
    """Trace the model and write its graph, weights inside.

    Raises:
        ModelError: the weights do not fit into one file.
    """
    if plain.size_bytes > LARGEST:
        raise ModelError(
            "the model is too large for one ONNX file",
            value=f"{plain.size_bytes} bytes of weights",
            rule=f"at most {LARGEST}",
            hint="--format safetensors, or hf --merged",
        )
    free = {0: "rows", 1: "tokens"} if isinstance(plain.module, PlainText) else {0: "rows"}
    with _quiet():
        program = torch.onnx.export(
            plain.module,
            _example(plain),
            input_names=list(plain.inputs),
            output_names=["logits"],
            dynamic_shapes=tuple(free for _ in plain.inputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ModelError("torch wrote no graph", value=plain.base.ref, hint="export --format safetensors")
    graph = program.model_proto
    _forget_sources(graph.graph)
    for function in graph.functions:
        _forget_sources(function)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def _forget_sources(graph: "GraphProto | FunctionProto") -> None:
    """Every node says which lines of which files made it: paths of this machine, and most of a small file."""
    for part in (graph, *graph.node, *graph.value_info, *getattr(graph, "initializer", ())):
        del part.metadata_props[:]
        part.doc_string = ""


def _example(plain: Plain) -> tuple[Tensor, ...]:
    """Rows to trace with: unlike sizes, none of them 0 or 1, which would be taken as fixed."""
    if isinstance(plain.module, PlainText):
        mask = torch.ones(2, 5, dtype=torch.int64)
        mask[1, 3:] = 0
        ones = torch.ones_like(mask)
        known = {"input_ids": ones, "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
        return tuple(known[name] for name in plain.inputs)
    return (torch.zeros(2, plain.base.row_width),)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter and the quantiser warn their own developers: of calls inside torch, of names that two axes share."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "onnxruntime", "root")
    loggers = [logging.getLogger(name) for name in names]
    levels, handlers = [logger.level for logger in loggers], logging.root.handlers[:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        logging.root.handlers[:] = handlers  # importing the quantiser adds one for the whole process


def quantise(source: Path, target: Path) -> None:
    """Weights as eight-bit integers: 32 numbers of a matrix share a scale, and so does each row of a table.

    What a product is given is rounded to eight bits by like blocks of 32 when it comes, so that one large number spoils its own
    block only, and an answer does not depend on the rows beside it.

    Source: ONNX Runtime's MatMulNBits, https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
    """
    with _quiet():
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
        from onnxruntime.quantization.onnx_model import ONNXModel

        model = ONNXModel(onnx.load(source))
        model.replace_gemm_with_matmul()
        _quantise_tables(model.model.graph)
        work = MatMulNBitsQuantizer(model.model, bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=EIGHT_BITS)
        work.process()
        work.model.clean_initializers()
    target.write_bytes(work.model.model.SerializeToString(deterministic=True))


def _quantise_tables(graph: "GraphProto") -> None:
    """Rows that are looked up, such as those of tokens; the quantiser of products knows tables of four bits only."""
    from onnx.numpy_helper import to_array

    known = {value.name: to_array(value) for value in graph.initializer if len(value.dims) == 2}
    reads = [node.input[0] for node in graph.node if node.op_type == "Gather" and node.input[0] in known]
    tables = {name: known[name] for name in reads if known[name].dtype == np.float32}
    for name, table in tables.items():
        graph.initializer.extend(_integers_and_scales(name, table))
    nodes = [
        part
        for node in graph.node
        for part in (_look_up(node) if node.op_type == "Gather" and node.input[0] in tables else [node])
    ]
    del graph.node[:]
    graph.node.extend(nodes)


def _integers_and_scales(name: str, table: NDArray[np.float32]) -> "tuple[TensorProto, TensorProto]":
    """Of float32 ``[rows, width]``: int8 of the same shape, and float32 ``[rows, 1]``. Off by half a scale at most."""
    from onnx.numpy_helper import from_array

    scale = np.maximum(np.abs(table).max(axis=1, keepdims=True) / np.float32(127), np.finfo(np.float32).tiny)
    return from_array(np.rint(table / scale).astype(np.int8), f"{name}_eight"), from_array(scale, f"{name}_scale")


def _look_up(node: "NodeProto") -> "list[NodeProto]":
    """What a ``Gather`` of a table becomes: of its integers and of its scales, and their product."""
    from onnx import TensorProto
    from onnx.helper import make_node

    (table, places), (out,) = node.input, node.output
    return [
        make_node("Gather", [f"{table}_eight", places], [f"{out}_eight"]),
        make_node("Gather", [f"{table}_scale", places], [f"{out}_scale"]),
        make_node("Cast", [f"{out}_eight"], [f"{out}_float"], to=TensorProto.FLOAT),
        make_node("Mul", [f"{out}_float", f"{out}_scale"], [out]),
    ]


def open_session(path: Path) -> "InferenceSession":
    """On one core, so that two of them can be timed in turns."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(session: "InferenceSession", *given: Tensor) -> Tensor:
    """Logits, float32 ``[rows, labels]``."""
    names = [known.name for known in session.get_inputs()]
    (logits,) = session.run(None, dict(zip(names, (value.numpy() for value in given), strict=True)))
    return torch.from_numpy(logits)
