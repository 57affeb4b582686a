"""A text classifier: base, LoRA adapter, pooled text vector, linear head. Trained are adapter and head, or every weight.

Example::

    model = build_classifier(base, experiment.model, seed=7)
    state = trainable_state(model)            # {'encoder.layer.5.attention.self.query.lora_A': ..., 'head.weight': ...}
    logits = model(batch.input_ids, batch.attention_mask)      # float32 [rows, labels]
"""

import math
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter, Model
from fedrelease.models.bases import Base, Pooling
from fedrelease.models.directions import directions
from fedrelease.models.every_weight import train_every_weight
from fedrelease.models.per_example import CoreLinear, Head, LoraLinear
from fedrelease.models.precision import DTYPES

__all__ = ["TextClassifier", "build_classifier", "canonical_name", "load_state", "pool", "trainable_state"]

ATTENTION = "eager"
"""Plain matrix products: on a processor, and for short texts, they take a fraction of the time of torch's fused kernel."""
ATTENTION_TARGETS = (("query", "value"), ("q_proj", "v_proj"), ("q_lin", "v_lin"), ("c_attn",), ("query_key_value",))


class TextClassifier(nn.Module):
    """Token ids to logits, through the base, its pooling and one linear layer."""

    def __init__(self, encoder: nn.Module, pooling: Pooling, width: int, labels: int, *, scale: float = 1.0) -> None:
        """Put a zero head on ``encoder``: at the start every label is equally likely."""
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.width = width
        self.scale = scale
        self.head = Head(width, labels)
        self._zero_head()

    def _zero_head(self) -> None:
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def draw(self, seed: int) -> None:
        """Put what is trained where training starts: factors that follow from ``seed`` alone, and a zero head."""
        _draw_factors(self, torch.Generator().manual_seed(seed))
        self._zero_head()

    @property
    def layers(self) -> nn.ModuleList:
        """The base's layers, lowest first; none when it does not keep them in one list."""
        count = _setting(self.encoder, "num_hidden_layers")
        lists = (module for module in self.encoder.modules() if isinstance(module, nn.ModuleList))
        return next((found for found in lists if len(found) == count), nn.ModuleList())

    @property
    def dtype(self) -> torch.dtype:
        """The base's precision."""
        return next(self.encoder.parameters()).dtype

    @property
    def frozen_layers(self) -> int:
        """How many layers lie below the first one that is trained: what they give for a text never changes."""
        trained = [any(value.requires_grad for value in layer.parameters()) for layer in self.layers]
        return trained.index(True) if True in trained else 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, prefix: Tensor | None = None) -> Tensor:
        """Logits, float32 ``[rows, labels]``, of int64 ``[rows, tokens]`` ids and mask (1 = token, 0 = padding).

        With ``prefix``, ``[rows, tokens, width]`` in the base's precision, the frozen layers are not computed: it is what they
        would give.
        """
        logits: Tensor = self.head(self.vectors(input_ids, attention_mask, prefix) * self.scale)
        return logits

    def vectors(self, input_ids: Tensor, attention_mask: Tensor, prefix: Tensor | None = None) -> Tensor:
        """Pooled text vectors, float32 ``[rows, width]``; the arguments are those of :meth:`forward`."""
        with self._given(prefix):
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return pool(hidden.float(), attention_mask, self.pooling)

    @contextmanager
    def _given(self, prefix: Tensor | None) -> Iterator[None]:
        layers, cut = self.layers, self.frozen_layers if prefix is not None else 0
        own = [layers[place] for place in range(cut)]
        try:
            for place in range(cut):
                layers[place] = _Given(prefix if place == cut - 1 else None)
            yield
        finally:
            for place, layer in enumerate(own):
                layers[place] = layer


class _Given(nn.Module):
    """Stands in for a frozen layer: hands on what comes in, or what was computed before."""

    def __init__(self, hidden: Tensor | None) -> None:
        super().__init__()
        self._hidden = hidden

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        """The hidden states for the next layer."""
        return hidden_states if self._hidden is None else self._hidden


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Text vectors ``[rows, width]`` of token vectors ``[rows, tokens, width]``; padding never counts."""
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    if pooling.mode == "mean":
        vector = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
    elif pooling.mode == "max":
        vector = hidden.masked_fill(mask == 0, -torch.inf).amax(1)
    elif pooling.mode == "last":
        vector = hidden[torch.arange(hidden.shape[0]), attention_mask.sum(1) - 1]
    else:
        vector = hidden[:, 0]
    return functional.normalize(vector, dim=-1) if pooling.normalise else vector


def build_classifier(base: Base, model: Model, *, seed: int) -> TextClassifier:
    """Load the base, switch its dropout off, and put a head on it; freeze it and put an adapter on it, or train all of it.

    LoRA starts as the paper says (A random, B zero), A drawn from ``seed`` alone, so that every site and every run of an
    experiment starts from the same state. Dropout is off because private and repeatable training want none.

    Raises:
        ModelError: the base does not load, has no token vectors, or lacks the layers or modules that the adapter names; or every
            weight is to be trained in bfloat16.
    """
    if base.architecture is not None:
        raise ModelError(
            "this base does not read texts",
            value=model.base,
            rule="text-classification trains a pretrained text encoder, or factors on one",
            hint='set [model] base = "minilm"',
        )
    encoder = _load_encoder(base, _dtype(model))
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    _switch_off_dropout(encoder)
    if model.adapter.kind == "lora":
        _inject(encoder, model.adapter)
    if model.adapter.kind == "lora-sb":
        _put_cores(encoder, model.adapter)
    width = _setting(encoder, "hidden_size")
    classifier = TextClassifier(encoder, base.pooling, width, len(model.labels), scale=model.head_scale)
    if model.adapter.kind == "full":
        train_every_weight(classifier)
    classifier.draw(seed)
    return classifier


def _dtype(model: Model) -> torch.dtype:
    if model.adapter.kind == "full" and model.precision == "bfloat16":
        raise ModelError(
            "every weight is trained, in bfloat16",
            value=model.precision,
            rule="what is trained is float32: a step is smaller than what bfloat16 can add to a weight",
            hint='set [model] precision = "float32" or "auto"',
        )
    if model.precision not in DTYPES:
        raise ModelError(
            "no precision was chosen",
            value=model.precision,
            rule=f"a model is built in {' or '.join(DTYPES)}",
            hint="only `fedrelease simulate` chooses by itself; name one in [model] precision",
        )
    return DTYPES[model.precision]


def _switch_off_dropout(encoder: nn.Module) -> None:
    """Of modules and of plain numbers: many bases hand a rate to their attention function and have no module for it."""
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _load_encoder(base: Base, dtype: torch.dtype) -> nn.Module:
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        encoder: nn.Module = AutoModel.from_pretrained(
            str(base.folder),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=dtype,
            attn_implementation=ATTENTION,
        )
    except Exception as error:  # transformers raises whatever its model code meets: OSError, ValueError, KeyError ...
        raise ModelError(
            f"the base in {base.folder} does not load: {type(error).__name__}: {error}",
            value=base.ref,
            rule="transformers' AutoModel opens it from config.json and safetensors, without code of its own",
            hint="save it again with model.save_pretrained(folder), or choose another base, for example minilm",
        ) from error
    takes_ids = getattr(encoder, "main_input_name", "") == "input_ids"
    if not (takes_ids and hasattr(encoder.config, "hidden_size")) or getattr(
        encoder.config, "is_encoder_decoder", False
    ):
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

    chosen = _chosen(encoder, adapter)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=0.0,
        target_modules=chosen,
        fan_in_fan_out=type(encoder.get_submodule(chosen[0])).__name__ == "Conv1D",
    )
    inject_adapter_in_model(config, encoder)
    for name in chosen:
        layer: Any = encoder.get_submodule(name)
        layer.__class__ = LoraLinear
        layer.register_parameter("residual", _residual(layer) if adapter.residual else None)
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _put_cores(encoder: nn.Module, adapter: Adapter) -> None:
    """Wrap each chosen layer; PEFT has no adapter of this form that starts from the weight alone."""
    for name in _chosen(encoder, adapter):
        layer = encoder.get_submodule(name)
        weight = cast(Tensor, layer.weight)
        turned = weight.T if type(layer).__name__ == "Conv1D" else weight
        first, second = directions(turned, adapter.rank)
        core = CoreLinear(layer, first, second, scaling=adapter.alpha / adapter.rank)
        parent, _, last = name.rpartition(".")
        setattr(encoder.get_submodule(parent), last, core)


def _residual(layer: LoraLinear) -> nn.Parameter:
    """Zero, ``[out, in]``, float32 whatever the base's precision: small changes of many rounds add up in it."""
    return nn.Parameter(torch.zeros(layer.out_features, layer.in_features), requires_grad=False)


def _chosen(encoder: nn.Module, adapter: Adapter) -> list[str]:
    """Full names of the modules that get factors.

    Not PEFT's own choice by layer, which finds none in bases that keep their layers at the top; and never in the base's pooler:
    what that gives is not used, so that trained it would have no gradient.
    """
    linear = [
        name
        for name, module in encoder.named_modules()
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D") and "pooler" not in name.split(".")
    ]
    targets = _targets({name.rsplit(".", 1)[-1] for name in linear}, adapter.targets)
    layers = _layers(encoder, adapter.layers)
    chosen = [name for name in linear if name.rsplit(".", 1)[-1] in targets and _in_layers(name, layers)]
    if not chosen:
        raise ModelError(
            "the base has no such modules in these layers",
            value=f"{adapter.targets} in {adapter.layers}",
            rule="its modules are named by their layer, for example encoder.layer.5.attention.self.query",
            hint='set [model.adapter] layers = "all"',
        )
    return chosen


def _in_layers(name: str, layers: range | None) -> bool:
    """Whether the first number in a module's name, its layer, is one of these; ``None`` means all layers."""
    return layers is None or next((int(part) in layers for part in name.split(".") if part.isdecimal()), False)


def _targets(linear: Set[str], targets: str) -> tuple[str, ...]:
    if targets == "all-linear":
        return tuple(sorted(linear))
    wanted = [tuple(targets.split(","))] if targets != "attention" else ATTENTION_TARGETS
    for group in wanted:
        if set(group) <= linear:
            return group
    raise ModelError(
        "the base has no such modules",
        value=targets,
        rule=f"model.adapter.targets names some of {', '.join(sorted(linear))}",
        hint='set [model.adapter] targets = "all-linear"',
    )


def _layers(encoder: nn.Module, layers: str) -> range | None:
    if layers == "all":
        return None
    count, total = int(layers.partition(":")[2]), _setting(encoder, "num_hidden_layers")
    if count > total:
        raise ModelError(
            "the base has fewer layers",
            value=layers,
            rule=f"model.adapter.layers is at most last:{total} for this base",
            hint='set [model.adapter] layers = "all"',
        )
    return range(total - count, total)


def _draw_factors(classifier: TextClassifier, generator: torch.Generator) -> None:
    for name, parameter in sorted(_stated(classifier).items()):
        if name.endswith("lora_A"):
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)
        elif name.endswith(("lora_B", "lora_R")) or not parameter.requires_grad:
            nn.init.zeros_(parameter)


def canonical_name(name: str) -> str:
    """Our name of a parameter: PEFT's wrapping and adapter names are cut out, so that its versions may change them."""
    return name.removeprefix("encoder.").replace(".default.weight", "").replace("base_layer.", "")


def _stated(classifier: nn.Module) -> dict[str, nn.Parameter]:
    """What a state holds: all that is trained, and the residuals, which never are."""
    residuals = {id(layer.residual) for layer in classifier.modules() if isinstance(layer, LoraLinear)}
    return {
        canonical_name(name): value
        for name, value in classifier.named_parameters()
        if value.requires_grad or id(value) in residuals
    }


def trainable_state(classifier: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state: adapter, its residuals and head, float32, by canonical name, names sorted."""
    return {name: value.detach().clone() for name, value in sorted(_stated(classifier).items())}


def load_state(classifier: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a state into the model, in place.

    Raises:
        ModelError: names or shapes differ from the model's own; nothing was changed.
    """
    own = _stated(classifier)
    if set(own) != set(state):
        raise ModelError(
            "the state is of another adapter",
            value=sorted(set(own) ^ set(state))[:4],
            rule="same names",
            hint="build the model of the round that the state is of: a phase may have an adapter of its own",
        )
    for name, parameter in own.items():
        if state[name].shape != parameter.shape:
            raise ModelError(
                f"{name} has another shape", value=tuple(state[name].shape), rule=f"{tuple(parameter.shape)}"
            )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
