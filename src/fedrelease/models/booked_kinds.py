"""Which layers can be trained privately as a whole, and how each is booked.

Example::

    KINDS[nn.Linear].squares(layer, pair, gram)          # {weight: float32 [examples], bias: float32 [examples]}
"""

from collections.abc import Mapping

from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm
from transformers.pytorch_utils import Conv1D

from fedrelease.models.booked_images import CONVOLUTION, GROUP_NORM
from fedrelease.models.booked_layers import EMBEDDING, LAYER_NORM, PRODUCT, Kind
from fedrelease.models.booked_norms import ROOT_NORM
from fedrelease.models.per_example import Head

__all__ = ["KINDS"]

KINDS: Mapping[type[nn.Module], Kind] = {
    Conv1D: PRODUCT,
    Head: PRODUCT,
    LlamaRMSNorm: ROOT_NORM,
    T5LayerNorm: ROOT_NORM,
    nn.Conv2d: CONVOLUTION,
    nn.Embedding: EMBEDDING,
    nn.GroupNorm: GROUP_NORM,
    nn.LayerNorm: LAYER_NORM,
    nn.Linear: PRODUCT,
}
"""Of exactly these types: a class below one of them may compute something else."""
