"""Whether a base reads from left to right and tells what comes next, as a language model does; transformers opens others too.

Example::

    check_tells_next(base)                   # ModelError for a T5
    check_left_to_right(encoder, base)       # ModelError for a BERT
"""

import json

import torch
from torch import nn

from fedrelease.errors import ModelError
from fedrelease.models.bases import Base

__all__ = ["check_left_to_right", "check_tells_next"]

RULE = "causal-lm needs a base that reads from left to right and tells what comes next, such as GPT-2 or Llama"
SAME = 1e-4
"""Of a vector's length: rounding."""


def check_tells_next(base: Base) -> None:
    """Refuse a base of texts that transformers knows no last layer for: its own error names every model that there is.

    Raises:
        ModelError: there is none.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = json.loads((base.folder / "config.json").read_bytes()).get("model_type")
    if not base.reads_images and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        what = f"the base {base.ref} ({kind}) tells no next token"
        raise ModelError(what, value=base.ref, rule=RULE, hint='set [model] base = "smollm2"')


@torch.no_grad()
def check_left_to_right(encoder: nn.Module, base: Base) -> None:
    """Refuse a base whose tokens see those after them: it would be shown what it is asked for.

    Raises:
        ModelError: they do; what a token is told changes with the one after it.
    """
    first, second = (
        encoder(input_ids=torch.tensor([[1, 2, last]])).last_hidden_state[0, :2].float() for last in (0, 3)
    )
    if float((first - second).norm()) > SAME * float(first.norm()):
        raise ModelError(
            f"the base {base.ref} ({type(encoder).__name__}) sees the token that it is to tell",
            value=base.ref,
            rule=RULE,
            hint='set [model] base = "smollm2", or [model] task = "text-classification"',
        )
