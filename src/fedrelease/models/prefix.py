"""The frozen prefix: what the layers below the adapter give for a row never changes, so it is computed once and kept on disk.

Example::

    rows = with_prefix(model, site.train, key=base.digest[:16])     # the first call computes and writes, later ones map the file
    model(batch.input_ids, batch.attention_mask, batch.prefix)

The file lies beside the site's own rows and never leaves the site. The same rows, base and torch give the same bits, whoever
computes them and whenever: rows go through in a fixed order and in fixed batches.
"""

from pathlib import Path
from typing import cast
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedrelease.data.row_files import Rows
from fedrelease.data.tokens import TokenRows
from fedrelease.data.vectors import VectorRows
from fedrelease.files import sync_folder
from fedrelease.models.classifier import TextClassifier
from fedrelease.models.images import ImageClassifier
from fedrelease.models.precision import matmul
from fedrelease.models.tasks import Classifier

__all__ = ["LARGEST_BYTES", "with_prefix"]

BATCH = 64
LARGEST_BYTES = 4 << 30


def with_prefix(model: Classifier, rows: Rows, *, key: str) -> Rows:
    """``rows`` that carry the hidden states below the adapter, or the vectors of images where the head alone is trained; ``rows``
    as they are when nothing is frozen below what is trained.

    Args:
        rows: some rows of a file or all of them; what is kept is of the whole file.
        key: names the base.

    A file of more than ``LARGEST_BYTES`` is not made: then every step computes the prefix again.
    """
    if isinstance(model, ImageClassifier) and isinstance(rows, VectorRows) and model.is_frozen:
        return rows.carrying(_vectors(model, rows.whole, key))
    if not (isinstance(model, TextClassifier) and isinstance(rows, TokenRows)):
        return rows
    hidden = _kept(model, rows.whole, key)
    return rows if hidden is None else rows.carrying(hidden)


def _kept(model: TextClassifier, rows: TokenRows, key: str) -> Tensor | None:
    cut = model.frozen_layers
    if cut == 0 or int(rows.lengths.sum()) * model.width * model.dtype.itemsize > LARGEST_BYTES:
        return None
    kind = str(model.dtype).removeprefix("torch.")
    path = rows.path.with_name(f"{rows.path.stem}.prefix-{key}-{cut}-{kind}-{torch.__version__}.safetensors")
    hidden = _read(path)
    if hidden is None:
        _write(path, _compute(model, rows, cut))
        hidden = _read(path)
    return hidden


def _vectors(model: ImageClassifier, rows: VectorRows, key: str) -> Tensor:
    kind = f"{model.batch_norm}-{str(model.dtype).removeprefix('torch.')}"
    path = rows.path.with_name(f"{rows.path.stem}.vectors-{key}-{kind}-{torch.__version__}.safetensors")
    found = _read(path)
    if found is None:
        _write(path, _see(model, rows))
        found = _read(path)
    return cast(Tensor, found)


@torch.no_grad()
def _see(model: ImageClassifier, rows: VectorRows) -> Tensor:
    model.eval()
    with matmul("medium"):
        return torch.cat(
            [model.seen(rows.batch(part).features) for part in torch.split(torch.arange(len(rows)), BATCH)]
        )


def _read(path: Path) -> Tensor | None:
    try:
        with safe_open(str(path), framework="pt") as file:
            hidden: Tensor = file.get_tensor("hidden")
    except (SafetensorError, OSError):
        return None
    return hidden


def _write(path: Path, hidden: Tensor) -> None:
    temporary = path.with_name(f".{uuid4().hex}.tmp")
    try:
        save_file({"hidden": hidden}, str(temporary))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@torch.no_grad()
def _compute(model: TextClassifier, rows: TokenRows, cut: int) -> Tensor:
    """Hidden states ``[all tokens, width]`` in the base's precision, in the order of the rows."""
    model.eval()
    found: list[Tensor] = []
    handle = model.layers[cut - 1].register_forward_hook(lambda module, given, out: found.append(_first(out)))
    hidden = torch.empty(int(rows.lengths.sum()), model.width, dtype=model.dtype)
    try:
        with matmul("medium"):
            for indices in torch.split(torch.argsort(rows.lengths, stable=True), BATCH):
                batch = rows.batch(indices)
                model.hidden(batch.input_ids, batch.attention_mask, segments=batch.segments)
                hidden[rows.places(indices)] = found.pop()[batch.attention_mask.bool()]
    finally:
        handle.remove()
    return hidden


def _first(out: Tensor | tuple[Tensor, ...]) -> Tensor:
    return out[0] if isinstance(out, tuple) else out
