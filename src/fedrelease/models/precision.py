"""How exact matrix products are: quick ones through the model, exact ones where privacy is decided.

Example::

    with matmul("medium"):
        logits = model(batch)
        with matmul("highest"):
            optimizer.step()        # norms, clipping, sums and noise in full float32
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["matmul"]


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
