"""A text classifier: frozen base, LoRA adapter, pooled text vector, linear head. Only adapter and head are trained.

Example::

    model = build_classifier(base, experiment.model, seed=7)
    state = trainable_state(model)            # {'encoder.layer.5.attention.self.query.lora_A': ..., 'head.weight': ...}
    logits = model(batch.input_ids, batch.attention_mask)      # float32 [rows, labels]
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter, Model
from fedrelease.models.bases import Base, Pooling

__all__ = ["TextClassifier", "build_classifier", "canonical_name", "load_state", "trainable_state"]

ATTENTION_TARGETS = (("query", "value"), ("q_proj", "v_proj"), ("q_lin", "v_lin"), ("c_attn",), ("query_key_value",))


class TextClassifier(nn.Module):
    """Token ids to logits, through the base, its pooling and one linear layer."""

    def __init__(self, encoder: nn.Module, pooling: Pooling, width: int, labels: int) -> None:
        """Put a zero head on ``encoder``: at the start every label is equally likely."""
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.head = nn.Linear(width, labels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits, float32 ``[rows, labels]``, of int64 ``[rows, tokens]`` ids and mask (1 = token, 0 = padding)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits: Tensor = self.head(pool(hidden, attention_mask, self.pooling))
        return logits


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Text vectors ``[rows, width]`` of token vectors ``[rows, tokens, width]``; padding never counts."""
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    if pooling.mode == "mean":
        vector = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
    elif pooling.mode == "max":
        vector = hidden.masked_fill(mask == 0, -torch.inf).amax(1)
    elif pooling.mode == "last":
        vector = hidden[torch.arange(len(hidden)), attention_mask.sum(1) - 1]
    else:
        vector = hidden[:, 0]
    return functional.normalize(vector, dim=-1) if pooling.normalise else vector


def build_classifier(base: Base, model: Model, *, seed: int) -> TextClassifier:
    """Load the base, freeze it, switch its dropout off, and put adapter and head on it.

    LoRA starts as the paper says (A random, B zero), A drawn from ``seed`` alone, so that every site and every run of an
    experiment starts from the same state. Dropout is off because private and repeatable training want none.

    Raises:
        ModelError: the base does not load, has no token vectors, or lacks the layers or modules that the adapter names.
    """
    encoder = _load_encoder(base)
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    _inject(encoder, model.adapter)
    classifier = TextClassifier(encoder, base.pooling, _setting(encoder, "hidden_size"), len(model.labels))
    _draw_factors(classifier, torch.Generator().manual_seed(seed))
    return classifier


def _load_encoder(base: Base) -> nn.Module:
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        encoder: nn.Module = AutoModel.from_pretrained(
            str(base.folder), use_safetensors=True, local_files_only=True, dtype=torch.float32
        )
    except Exception as error:  # transformers raises whatever its model code meets: OSError, ValueError, KeyError ...
        raise ModelError(
            f"the base in {base.folder} does not load: {type(error).__name__}: {error}", value=base.ref
        ) from error
    if not hasattr(encoder.config, "hidden_size") or getattr(encoder, "main_input_name", "") != "input_ids":
        raise ModelError(
            f"the base {base.ref} ({type(encoder).__name__}) does not fit the task",
            value=base.ref,
            rule="text-classification needs a base that takes token ids and gives token vectors",
            hint="choose a text encoder, for example minilm",
        )
    return encoder


def _setting(encoder: nn.Module, name: str) -> int:
    return int(getattr(encoder.config, name))


def _inject(encoder: nn.Module, adapter: Adapter) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=0.0,
        target_modules=list(_targets(encoder, adapter.targets)),
        layers_to_transform=_layers(encoder, adapter.layers),
    )
    inject_adapter_in_model(config, encoder)


def _targets(encoder: nn.Module, targets: str) -> tuple[str, ...]:
    linear = {
        name.rsplit(".", 1)[-1]
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    }
    if targets == "all-linear":
        return tuple(sorted(linear - {"pooler"}))
    wanted = [tuple(targets.split(","))] if targets != "attention" else ATTENTION_TARGETS
    for group in wanted:
        if set(group) <= linear:
            return group
    raise ModelError(
        "the base has no such modules", value=targets, rule=f"model.adapter.targets names some of {sorted(linear)}"
    )


def _layers(encoder: nn.Module, layers: str) -> list[int] | None:
    if layers == "all":
        return None
    count, total = int(layers.partition(":")[2]), _setting(encoder, "num_hidden_layers")
    if count > total:
        raise ModelError(
            "the base has fewer layers",
            value=layers,
            rule=f"model.adapter.layers is at most last:{total} for this base",
        )
    return list(range(total - count, total))


def _draw_factors(classifier: TextClassifier, generator: torch.Generator) -> None:
    for name, parameter in sorted(_trainable(classifier).items()):
        if name.endswith("lora_A"):
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)
        elif name.endswith("lora_B"):
            nn.init.zeros_(parameter)


def canonical_name(name: str) -> str:
    """Our name of a parameter: PEFT's wrapping and adapter names are cut out, so that its versions may change them."""
    return name.removeprefix("encoder.").replace(".default.weight", "").replace("base_layer.", "")


def _trainable(classifier: TextClassifier) -> dict[str, nn.Parameter]:
    return {canonical_name(name): value for name, value in classifier.named_parameters() if value.requires_grad}


def trainable_state(classifier: TextClassifier) -> dict[str, Tensor]:
    """A copy of what is trained: adapter and head, float32, by canonical name, names sorted."""
    return {name: value.detach().clone() for name, value in sorted(_trainable(classifier).items())}


def load_state(classifier: TextClassifier, state: Mapping[str, Tensor]) -> None:
    """Put a state into the model, in place.

    Raises:
        ModelError: names or shapes differ from what the model trains.
    """
    own = _trainable(classifier)
    if set(own) != set(state):
        raise ModelError("the state is of another adapter", value=sorted(set(own) ^ set(state))[:4], rule="same names")
    with torch.no_grad():
        for name, parameter in own.items():
            value = state[name]
            if value.shape != parameter.shape:
                raise ModelError(
                    f"{name} has another shape", value=tuple(value.shape), rule=f"{tuple(parameter.shape)}"
                )
            parameter.copy_(value)
