"""What a release and its export say of the same rows: both are asked, batch by batch.

Example::

    found = logits_of(plain.module, rows, plain.inputs)
    wanted = reference_logits(release, plain.base, rows)     # float32 [items, labels]
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from fedrelease.data.row_files import Rows
from fedrelease.data.tokens import IGNORED, Batch
from fedrelease.models.bases import Base
from fedrelease.models.classifier import TextClassifier
from fedrelease.models.continuing import next_logits
from fedrelease.models.sequences import SequenceModel
from fedrelease.server.exports.plain import inputs_of
from fedrelease.server.exports.plain_modules import PlainEncoder, last
from fedrelease.server.release import Release
from fedrelease.server.released_model import released_model

__all__ = ["fed", "given_to", "logits_of", "reference_logits", "truth_of"]

BATCH = 16


def fed(rows: Rows, inputs: Sequence[str]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Batches of rows of like length: their places, and what a model is given by name."""
    for places in torch.split(torch.argsort(rows.lengths, stable=True), BATCH):
        yield places.tolist(), given_to(rows, places, inputs)


def given_to(rows: Rows, places: Tensor, inputs: Sequence[str]) -> dict[str, Tensor]:
    """What a model that takes these ``inputs`` is given of some rows."""
    batch = rows.batch(places)
    if not isinstance(batch, Batch):
        return {"features": batch.features}
    segments = torch.zeros_like(batch.input_ids) if batch.segments is None else batch.segments
    known = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "token_type_ids": segments}
    return {name: known[name] for name in inputs}


@torch.no_grad()
def logits_of(module: Callable[..., Tensor], rows: Rows, inputs: Sequence[str]) -> Tensor:
    """Logits, float32 ``[items, labels]``, in the order of the rows: one item a row, or one a word, see :func:`truth_of`."""
    found: dict[int, Tensor] = {}
    for places, given in fed(rows, inputs):
        logits = module(*given.values())
        parts = [own[None] for own in logits] if logits.dim() == 2 else map(_items, logits, _alone(rows, places))
        found.update(zip(places, parts, strict=True))
    return torch.cat([found[place] for place in range(len(rows))])


def _alone(rows: Rows, places: Sequence[int]) -> Iterator[Batch]:
    return (cast(Batch, rows.batch([place])) for place in places)


def _items(logits: Tensor, row: Batch) -> Tensor:
    """Of a row's tokens, ``[columns, labels]``, those with a target, or all where none has one; padding never."""
    own = row.attention_mask[0] == 1 if row.targets is None else row.targets[0] != IGNORED
    return logits[: len(own)][own]


def truth_of(rows: Rows) -> Tensor:
    """What is right for each item of :func:`logits_of`, int64 ``[items]``: a row's label, or its words' tags."""
    batches = [rows.batch([place]) for place in range(len(rows))]
    if not batches or not isinstance(batches[0], Batch) or batches[0].targets is None:
        return torch.as_tensor(rows.labels)
    targets = torch.cat([cast(Tensor, cast(Batch, batch).targets)[0] for batch in batches])
    return targets[targets != IGNORED]


def reference_logits(release: Release, base: Base, rows: Rows) -> Tensor:
    """What the release itself says in float32, its factors beside the weights: what every export is compared with.

    Of ``regression`` that is in halves of the range, as it was trained.
    """
    model = released_model(release, base, precision="float32")
    inputs = inputs_of(model)
    if isinstance(model, SequenceModel):
        return logits_of(model.next_logits, rows, inputs)
    if not isinstance(model, TextClassifier):
        return logits_of(model, rows, inputs)
    if model.task == "masked-lm":
        return logits_of(PlainEncoder(model.encoder), rows, inputs)
    answer = _next_logits if model.task == "causal-lm" else _logits
    return logits_of(partial(answer, model), rows, inputs)


def _logits(model: TextClassifier, ids: Tensor, mask: Tensor, segments: Tensor | None = None) -> Tensor:
    logits: Tensor = model(ids, mask, None, segments)
    return logits


def _next_logits(model: TextClassifier, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    return next_logits(model, last(model.hidden(input_ids, attention_mask), attention_mask))
