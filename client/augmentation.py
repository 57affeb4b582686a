"""Training rows, changed at random: texts lose tokens, images are mirrored and moved.

Example::

    fill = fill_of(load_tokenizer(base.folder))
    less = without_tokens(batch, draws, share=0.1, fill=fill)              # a tenth of the tokens is the mask
    other = moved_images(images, draws, (1, 28, 28), augment)              # VectorBatch of the same shape
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from fedrelease.augment import Augment
from fedrelease.client.draws import Draws
from fedrelease.data.tokens import Batch, Tokenizer
from fedrelease.data.vectors import VectorBatch
from fedrelease.errors import ModelError

__all__ = ["Fill", "fill_of", "moved_images", "without_tokens"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fill:
    """What takes a token's place: ``token``; and which ones stay, ``special``, int64."""

    token: int
    special: Tensor


def fill_of(tokenizer: Tokenizer) -> Fill:
    """The base's mask token, or its token for what it does not know.

    Raises:
        ModelError: it has neither.
    """
    known = cast(Any, tokenizer)
    token = known.mask_token_id if known.mask_token_id is not None else known.unk_token_id
    if token is None:
        raise ModelError(
            "nothing can take the place of a token",
            value=type(tokenizer).__name__,
            rule="with training.augment.tokens the base's tokenizer has a mask token, or an unknown token",
            hint="leave training.augment.tokens out, or choose another base, for example minilm",
        )
    return Fill(token=int(token), special=torch.tensor(sorted(known.all_special_ids), dtype=torch.int64))


def without_tokens(batch: Batch, draws: Draws, *, share: float, fill: Fill) -> Batch:
    """The rows with each token replaced with probability ``share``, special ones and padding aside; their labels stay.

    What was kept of the frozen layers is of the whole text, and goes. Source: Dai and Le (2015),
    https://arxiv.org/abs/1511.01432, section 2.2 ("word dropout").
    """
    ids = batch.input_ids
    stays = torch.isin(ids, fill.special) | (batch.attention_mask == 0)
    hit = draws.uniform("tokens", ids.shape[1:]) < share
    return replace(batch, input_ids=torch.where(hit & ~stays, fill.token, ids), prefix=None)


def moved_images(batch: VectorBatch, draws: Draws, sizes: tuple[int, int, int], augment: Augment) -> VectorBatch:
    """The images, each mirrored with probability 1/2 where ``flip`` says so, and moved by up to ``shift`` pixels each way.

    Source: He et al. (2016), https://arxiv.org/abs/1512.03385, section 4.2: padded by ``shift``, and cut out at random.
    """
    images = batch.features.view(-1, *sizes)
    changed = [_moved(image, numbers, augment) for image, numbers in zip(images, draws.each("images"), strict=True)]
    return replace(batch, features=torch.stack(changed).flatten(1), vectors=None) if changed else batch


def _moved(image: Tensor, numbers: torch.Generator, augment: Augment) -> Tensor:
    """One image ``[channels, height, width]``; all is drawn whatever is used, so that one key does not change another's."""
    mirrored, far = bool(torch.rand((), generator=numbers) < 0.5), augment.shift
    down, right = torch.randint(0, 2 * far + 1, (2,), generator=numbers).tolist()
    image = image.flip(-1) if mirrored and augment.flip else image
    height, width = image.shape[1:]
    return functional.pad(image, (far, far, far, far))[:, down : down + height, right : right + width]
