"""Bases as torch modules: opened without code of their own, without dropout, in the experiment's precision.

Example::

    encoder = open_encoder(base, experiment.model)
    encoder(input_ids=ids, attention_mask=mask).last_hidden_state       # [rows, tokens, width]
"""

import json
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

from fedrelease.errors import ModelError
from fedrelease.experiment import Model
from fedrelease.models.bases import Base
from fedrelease.models.efficientnet import is_lite, open_lite
from fedrelease.models.precision import DTYPES
from fedrelease.models.vocabulary import VocabularyHead

__all__ = [
    "ATTENTION",
    "float32",
    "open_causal",
    "open_encoder",
    "open_masked",
    "open_seq2seq",
    "open_vision",
    "open_whole",
    "setting",
]

ATTENTION = "eager"
"""Plain matrix products: on a processor, and for short texts, they take a fraction of the time of torch's fused kernel."""


def open_encoder(base: Base, model: Model) -> nn.Module:
    """A base that takes token ids and gives token vectors, frozen or not as it came.

    Raises:
        ModelError: it does not load, or is no such base; or every weight is to be trained in bfloat16.
    """
    _check_reads_texts(base, model)
    encoder = _opened(base, _dtype(model))
    _check_encoder(encoder, base, model)
    _switch_off_dropout(encoder)
    return encoder


def open_causal(base: Base, model: Model) -> tuple[nn.Module, VocabularyHead]:
    """A base that tells the next token, without its last layer; and that layer, float32.

    In a float32 base it has the base's own parameters: where the base reads and writes words by one table, both stay one.

    Raises:
        ModelError: as :func:`open_encoder`.
    """
    _check_reads_texts(base, model)
    whole = _opened(base, _dtype(model), "AutoModelForCausalLM")
    encoder = cast(nn.Module, whole.base_model)
    _check_encoder(encoder, base, model)
    return _ready(whole)


def open_seq2seq(base: Base, model: Model) -> tuple[nn.Module, VocabularyHead]:
    """A base that reads one text and writes another, without its last layer; and that layer, as of :func:`open_causal`.

    Raises:
        ModelError: it does not load, or is no such base; or every weight is to be trained in bfloat16.
    """
    _check_reads_texts(base, model)
    config = json.loads((base.folder / "config.json").read_bytes())
    if not config.get("is_encoder_decoder", False):
        raise ModelError(
            f"the base {base.ref} does not fit the task",
            value=str(config.get("model_type")),
            rule="seq2seq needs a base with an encoder and a decoder",
            hint="choose one such as T5 or BART, or the task causal-lm with [data] prompt",
        )
    whole = _opened(base, _dtype(model), "AutoModelForSeq2SeqLM")
    offsets = getattr(whole, "final_logits_bias", None)  # of BART: never trained, and zero in all that are published
    if offsets is not None and bool(offsets.any()):
        rule = "a last layer is a product with a table, and nothing is added after it"
        raise ModelError("the last layer of the base adds final_logits_bias", value=base.ref, rule=rule)
    return _ready(whole)


def open_masked(base: Base, model: Model, name: str) -> tuple[nn.Module, nn.Module, VocabularyHead]:
    """A base that tells hidden tokens: its body, what turns a token's vector, and its last layer; the latter two float32.

    Args:
        name: what the base calls its head.

    Raises:
        ModelError: as :func:`open_encoder`.
    """
    whole = _opened(base, _dtype(model), "AutoModelForMaskedLM")
    encoder, last = cast(nn.Module, whole.base_model), cast(Any, whole).get_output_embeddings()
    _check_encoder(encoder, base, model)
    _switch_off_dropout(whole)
    turn = whole.get_submodule(name)
    for owner in list(turn.modules()):
        for child, module in list(owner.named_children()):
            if module is last:
                setattr(owner, child, nn.Identity())
    return encoder, turn.float().requires_grad_(False), _words(last)


def _ready(whole: nn.Module) -> tuple[nn.Module, VocabularyHead]:
    """The body, without dropout and memory of its own, and the last layer."""
    encoder, last = cast(nn.Module, whole.base_model), cast(Any, whole).get_output_embeddings()
    cast(Any, encoder).config.use_cache = False  # keys and values are kept for continuing a text only
    _switch_off_dropout(encoder)
    if encoder is whole:  # T5 has no body of its own: what is left of it is one
        cast(Any, whole).set_output_embeddings(nn.Identity())
    return encoder, _words(last)


def _words(last: Any) -> VocabularyHead:
    head = VocabularyHead(last.in_features, last.out_features, bias=last.bias is not None, device="meta")
    head.weight = float32(last.weight)
    if last.bias is not None:
        head.bias = float32(last.bias)
    return head


def open_vision(base: Base, model: Model) -> nn.Module:
    """A base that takes pixels and gives vectors of places.

    Raises:
        ModelError: it does not load, or is no such base; or every weight is to be trained in bfloat16.
    """
    lite = is_lite(base.folder)
    encoder = _opened_lite(base, _dtype(model)) if lite else _opened(base, _dtype(model))
    if getattr(encoder, "main_input_name", "") != "pixel_values":
        raise ModelError(
            f"the base {base.ref} ({type(encoder).__name__}) does not fit the task",
            value=base.ref,
            rule="image-classification needs a base that takes pixels",
            hint='choose a vision model, or "cnn:1x28x28-16-32"',
        )
    _switch_off_dropout(encoder)
    return encoder


def open_whole(base: Base) -> nn.Module:
    """A base that tells the next token, or writes one text for another, as transformers opens it, in float32.

    Raises:
        ModelError: it does not load.
    """
    both = json.loads((base.folder / "config.json").read_bytes()).get("is_encoder_decoder", False)
    return _opened(base, torch.float32, "AutoModelForSeq2SeqLM" if both else "AutoModelForCausalLM")


def float32(parameter: nn.Parameter) -> nn.Parameter:
    """The parameter itself where it is float32; else a copy."""
    parameter.requires_grad_(False)
    return parameter if parameter.dtype == torch.float32 else nn.Parameter(parameter.float(), requires_grad=False)


def setting(encoder: nn.Module, name: str) -> int:
    """A whole number of the base's configuration.

    Raises:
        ModelError: it says no such thing; a base that does not count its layers has no last ones.
    """
    found = getattr(encoder.config, name, None)
    if found is None:
        raise ModelError(
            f"the base does not say its {name}",
            value=type(encoder).__name__,
            rule=f"its config.json has {name}",
            hint='set [model.adapter] layers = "all", or choose another base',
        )
    return int(found)


def _check_reads_texts(base: Base, model: Model) -> None:
    if base.architecture is not None or base.shape is not None:
        raise ModelError(
            "this base does not read texts",
            value=model.base,
            rule=f"{model.task} trains a pretrained text encoder, or factors on one",
            hint='set [model] base = "minilm"',
        )


def _check_encoder(encoder: nn.Module, base: Base, model: Model) -> None:
    takes_ids = getattr(encoder, "main_input_name", "") == "input_ids"
    both = getattr(encoder.config, "is_encoder_decoder", False)
    if not (takes_ids and hasattr(encoder.config, "hidden_size")) or both:
        raise ModelError(
            f"the base {base.ref} ({type(encoder).__name__}) does not fit the task",
            value=base.ref,
            rule=f"{model.task} needs a base that takes token ids and gives token vectors",
            hint="choose a text encoder, for example minilm",
        )


def _dtype(model: Model) -> torch.dtype:
    if model.adapter.trains_base and model.precision == "bfloat16":
        every = model.adapter.kind == "full"
        raise ModelError(
            "every weight is trained, in bfloat16" if every else "weights of the base are trained, in bfloat16",
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


def _opened_lite(base: Base, dtype: torch.dtype) -> nn.Module:
    try:
        return open_lite(base.folder, dtype)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise ModelError(
            f"the base in {base.folder} does not load: {type(error).__name__}: {error}",
            value=base.ref,
            rule="config.json describes the network whose weights lie in model.safetensors",
            hint="fetch it again: fedrelease fetch efficientnet-lite0",
        ) from error


def _opened(base: Base, dtype: torch.dtype, auto: str = "AutoModel") -> nn.Module:
    import transformers
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        found: nn.Module = getattr(transformers, auto).from_pretrained(
            str(base.folder),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=dtype,
            attn_implementation=ATTENTION,
        )
    except Exception as error:  # transformers raises whatever its model code meets: OSError, ValueError, KeyError ...
        why = str(error).partition("\n")[0].rstrip(".")  # the next lines name every model that there is
        raise ModelError(
            f"the base in {base.folder} does not load: {type(error).__name__}: {why}",
            value=base.ref,
            rule="transformers' Auto classes open it from config.json and safetensors, without code of its own",
            hint="save it again with model.save_pretrained(folder), or choose another base, for example minilm",
        ) from error
    return found
