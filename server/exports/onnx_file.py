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

import torch
from torch import Tensor

from fedrelease.errors import ModelError
from fedrelease.server.exports.plain import Plain, PlainText

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto
    from onnxruntime import InferenceSession

__all__ = ["open_session", "quantise", "run", "write_onnx"]

LARGEST = 1_500_000_000
"""Bytes of weights: one ONNX file is a protocol buffer, which ends at 2 GiB."""


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
        return torch.ones_like(mask), mask
    widths = plain.base.architecture or ()  # what is no text is a described network
    return (torch.zeros(2, widths[0]),)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter and the quantiser warn their own developers: of calls inside torch, of names that two axes share."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def quantise(source: Path, target: Path) -> None:
    """Weights of matrix products and tables as eight-bit integers, numbers in between scaled row by row when they come.

    Source: ONNX Runtime's dynamic quantisation, https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
    """
    with _quiet():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)


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
