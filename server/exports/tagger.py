"""A merged model that tags tokens, as the class that ``transformers`` has for it: its pipelines open the folder.

Example::

    tagger(plain).save_pretrained(folder)
    open_tagger(folder)(input_ids, attention_mask)           # logits, float32 [rows, tokens, labels]
"""

from copy import deepcopy
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from fedrelease.errors import ModelError
from fedrelease.models.encoders import ATTENTION
from fedrelease.server.exports.plain import Plain
from fedrelease.server.exports.plain_modules import PlainText

__all__ = ["open_tagger", "tagger"]


def tagger(plain: Plain) -> nn.Module:
    """The base with the head in the place that transformers' class has for it, and the labels in its configuration.

    Raises:
        ModelError: transformers has no such class for this base.
    """
    from transformers import AutoModelForTokenClassification

    source = cast(PlainText, plain.module)
    config = deepcopy(source.encoder.config)
    config.id2label = dict(enumerate(plain.labels))  # type: ignore[union-attr]  # transformers ships no types
    config.label2id = {label: place for place, label in enumerate(plain.labels)}  # type: ignore[union-attr]
    with torch.random.fork_rng():
        try:
            model: nn.Module = AutoModelForTokenClassification.from_config(config, dtype=torch.float32)
        except ValueError as error:
            raise _no_class(plain) from error
    head = _head(model, plain)
    missing, _ = cast(nn.Module, model.base_model).load_state_dict(source.encoder.state_dict(), strict=False)
    if missing:  # what is left over, such as a pooler, this class has no use for
        raise _no_class(plain)
    head.load_state_dict(source.head.state_dict())
    return model.eval()


def _head(model: nn.Module, plain: Plain) -> nn.Linear:
    named = (getattr(model, name, None) for name in ("classifier", "score"))
    found = next((head for head in named if isinstance(head, nn.Linear) and head.bias is not None), None)
    if found is None:
        raise _no_class(plain)
    return found


def _no_class(plain: Plain) -> ModelError:
    kind = type(cast(PlainText, plain.module).encoder).__name__
    return ModelError(
        f"transformers has no class that tags tokens with a {kind} and one linear layer",
        value=plain.base.ref,
        rule="--merged writes a model of AutoModelForTokenClassification",
        hint="--format hf without --merged, onnx or safetensors",
    )


def open_tagger(folder: Path) -> nn.Module:
    """The folder as ``transformers`` opens it."""
    from transformers import AutoModelForTokenClassification

    opened = AutoModelForTokenClassification.from_pretrained(
        str(folder), local_files_only=True, dtype=torch.float32, attn_implementation=ATTENTION
    )
    return _Logits(opened.eval())


class _Logits(nn.Module):
    """A model of transformers that gives its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits, float32 ``[rows, tokens, labels]``."""
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits
