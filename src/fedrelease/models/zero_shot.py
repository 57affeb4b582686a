"""A head that starts from what the labels mean, instead of from nothing.

Example::

    model.head.weight.copy_(label_vectors(model, tokenizer, ("I hate it", "I love it"), max_length=128))
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fedrelease.data.tokens import Tokenizer, text_rows
from fedrelease.models.classifier import TextClassifier
from fedrelease.models.precision import matmul

__all__ = ["label_vectors"]

LENGTH = 3.0


@torch.no_grad()
def label_vectors(model: TextClassifier, tokenizer: Tokenizer, texts: Sequence[str], *, max_length: int) -> Tensor:
    """Head weights, float32 ``[labels, width]``: the base's vector of each text, of length 1, less their mean, times 3.

    A text is then likeliest to have the label whose text lies nearest to it. No data of any site is needed.

    Source: Yin et al. (2019), https://arxiv.org/abs/1909.00161, for the idea of labels as texts.
    """
    model.eval()
    with text_rows(texts, tokenizer, max_length) as rows, matmul("highest"):
        batch = rows.batch(range(len(rows)))
        vectors = functional.normalize(model.vectors(batch.input_ids, batch.attention_mask), dim=-1)
    return LENGTH * (vectors - vectors.mean(0))
