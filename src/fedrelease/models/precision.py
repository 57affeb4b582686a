"""How exact the base and its matrix products are: quick through the model, exact where privacy is decided.

Example::

    model = chosen_precision(experiment.model, cache_folder())     # precision = "auto" becomes "bfloat16" where that is quicker
    with matmul("medium"):
        logits = classifier(batch)
        with matmul("highest"):
            optimizer.step()        # norms, clipping, sums and noise in full float32
"""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache as once
from pathlib import Path

import torch

from fedrelease.experiment import Model
from fedrelease.files import digest_bytes, write_durably

__all__ = ["DTYPES", "chosen_precision", "exact_matmul", "matmul"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
REPEATS = 9
EXACT = 1e-5
EXACT_SHAPES = ((8, 16, 8), (40, 384, 40), (384, 1280, 384), (384, 512, 1536))
GAIN = 1.25
"""How many times as quick bfloat16 must be before it is chosen."""


@contextmanager
def matmul(precision: str) -> Iterator[None]:
    """Set torch's float32 matrix precision for the block: ``highest`` (float32 throughout) or ``medium``.

    ``medium`` lets the processor choose its quickest kernels: on some they are float32 all the same and twice as fast, on
    others they multiply in bfloat16 and add in float32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def exact_matmul() -> AbstractContextManager[None]:
    """A block in which products are float32 throughout, by the quickest kernels of this machine that are.

    Guarantees: ``medium`` is used only where its products, measured once in a process, are as close to those of float64 as
    float32 can be; on processors where it multiplies in bfloat16 (they are a thousand times as far off), ``highest`` is.
    """
    return matmul("medium" if _medium_is_exact() else "highest")


@once
def _medium_is_exact() -> bool:
    numbers = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(a, b, generator=numbers), torch.randn(b, c, generator=numbers)) for a, b, c in EXACT_SHAPES]
    with matmul("medium"):
        return all(_off(left @ right, left.double() @ right.double()) < EXACT for left, right in pairs)


def _off(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def chosen_precision(model: Model, cache: Path) -> Model:
    """The model with a precision that is not ``auto``: what this machine multiplies quicker, measured once and kept in ``cache``.

    It is kept so that a run that goes on, or is repeated, on the same machine gets the same answer.
    """
    if model.precision != "auto":
        return model
    if model.adapter.trains_base:  # what is trained is float32
        return replace(model, precision="float32")
    path = cache / "precision" / f"{digest_bytes(f'{platform.node()} {torch.__version__}'.encode())[:16]}.json"
    kept = _read(path)
    if kept is None:
        kept = "bfloat16" if _gain() >= GAIN else "float32"
        write_durably(path, json.dumps({"precision": kept}).encode())
    return replace(model, precision=kept)


def _read(path: Path) -> str | None:
    try:
        kept = json.loads(path.read_bytes())["precision"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return kept if kept in DTYPES else None


def _gain() -> float:
    """How many times as quick as a float32 product one of the same shape in bfloat16 is, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with matmul("medium"), torch.no_grad():
            pairs = [
                (torch.ones(512, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)) for dtype in DTYPES.values()
            ]
            spent = [
                [_seconds(*pair) for pair in pairs] for _ in range(REPEATS)
            ]  # in turns: others use the machine too
    finally:
        torch.set_num_threads(threads)
    return min(exact for exact, _ in spent) / min(short for _, short in spent)


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    """Of this thread's own work: waiting for a processor that others use would make both sides alike."""
    begun = time.thread_time()
    torch.mm(left, right)
    return time.thread_time() - begun
