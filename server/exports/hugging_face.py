"""Folders that ``transformers`` and ``peft`` open alone.

No class of transformers pools tokens as our bases do and then applies one linear layer, so the head is a file of its own,
``head.safetensors``; the card's recipe applies it in a line. A merged model that tags tokens needs none: transformers has a class
for it. A language model has no head of its own: peft and transformers open all of it.

Example::

    write_adapter(release, plain, folder)                    # adapter_config.json, adapter_model.safetensors, head.safetensors
    write_merged(plain, folder)                              # config.json, model.safetensors, head.safetensors
"""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedrelease.factors import is_factor, layers_of
from fedrelease.models.bases import Base
from fedrelease.models.encoders import ATTENTION, open_whole
from fedrelease.server.base_names import public_name
from fedrelease.server.exports.plain import Plain
from fedrelease.server.exports.plain_modules import PlainEncoder, PlainLanguage, PlainText
from fedrelease.server.exports.tagger import open_tagger, tagger
from fedrelease.server.release import Release
from fedrelease.server.released_model import own_model

__all__ = ["PromptedLanguage", "copy_tokenizer", "open_adapter", "open_merged", "write_adapter", "write_merged"]

HEAD = "head.safetensors"
VECTORS = "prompt.layer.0.weight"
"""A prompt's, in a state."""
TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
    "*.model",
)
POOLING = ("modules.json", "*_Pooling/config.json")
PREFIX = "base_model.model."
"""What PEFT puts before the names of the model that it wraps."""


def write_adapter(release: Release, plain: Plain, folder: Path) -> None:
    """Factors or a prompt in PEFT's names and form, the head, the tokenizer; the base is not in it."""
    (_write_prompt if own_model(release).adapter.kind == "prompt" else _write_factors)(release, plain, folder)
    _write_rest(plain, folder)


def _write_prompt(release: Release, plain: Plain, folder: Path) -> None:
    from peft import PromptTuningConfig

    vectors = release.state()[VECTORS]
    config = PromptTuningConfig(
        num_virtual_tokens=vectors.shape[0],
        token_dim=vectors.shape[1],
        num_transformer_submodules=1,
        task_type="CAUSAL_LM" if isinstance(plain.module, PlainLanguage) else "FEATURE_EXTRACTION",
        inference_mode=True,
        base_model_name_or_path=public_name(plain.base),
    )
    _write_json(folder / "adapter_config.json", config.to_dict())
    save_file({"prompt_embeddings": vectors}, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _write_factors(release: Release, plain: Plain, folder: Path) -> None:
    from peft import LoraConfig

    state, adapter = release.state(), own_model(release).adapter
    layers, module = layers_of(state.keys()), _text(plain)
    turned = type(module.encoder.get_submodule(layers[0])).__name__ == "Conv1D"
    body = module.prefix if isinstance(module, PlainLanguage) else ""
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=0.0,
        use_rslora=adapter.rank_stabilised,
        target_modules=[f"{body}{layer}" for layer in layers],
        fan_in_fan_out=turned,
        task_type=_kind(module),
        inference_mode=True,
        base_model_name_or_path=public_name(plain.base),
    )
    # PEFT keeps modules as a set, whose order differs from run to run
    facts = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    _write_json(folder / "adapter_config.json", facts)
    factors = {f"{PREFIX}{body}{name}.weight": state[name].contiguous() for name in sorted(state) if is_factor(name)}
    save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _kind(module: PlainText | PlainLanguage) -> str:
    """What peft calls it."""
    if isinstance(module, PlainText):
        return "FEATURE_EXTRACTION"
    return "SEQ_2_SEQ_LM" if module.writes else "CAUSAL_LM"


def write_merged(plain: Plain, folder: Path) -> None:
    """The base with the factors in its weights, float32; the head, the tokenizer.

    Raises:
        ModelError: it tags tokens, and transformers has no class for that on this base.
    """
    if plain.by_token:
        tagger(plain).save_pretrained(folder)  # type: ignore[operator]  # transformers ships no types
        copy_tokenizer(plain.base, folder)
        return
    if isinstance(plain.module, PlainEncoder):
        _write_base(plain.module.encoder, plain.base, folder)
        return
    module = _text(plain)
    whole = module.whole if isinstance(module, PlainLanguage) else module.encoder
    whole.save_pretrained(folder)  # type: ignore[operator]  # transformers ships no types
    _write_rest(plain, folder)


def _write_base(encoder: nn.Module, base: Base, folder: Path) -> None:
    """A folder for ``[model] base``: how the base makes a text's vector of its tokens' is declared there as it was."""
    encoder.save_pretrained(folder)  # type: ignore[operator]  # transformers ships no types
    copy_tokenizer(base, folder)
    for pattern in POOLING:
        for path in base.folder.glob(pattern):
            (folder / path.relative_to(base.folder)).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / path.relative_to(base.folder))


def _write_rest(plain: Plain, folder: Path) -> None:
    module = _text(plain)
    if isinstance(module, PlainText):
        head = module.head
        tensors = {"bias": head.bias.detach().contiguous(), "weight": head.weight.detach().contiguous()}
        save_file(tensors, folder / HEAD, metadata={"format": "pt"})
    copy_tokenizer(plain.base, folder)


def copy_tokenizer(base: Base, folder: Path) -> None:
    """The base's own files that decide how texts become tokens, byte by byte."""
    for pattern in TOKENIZER:
        for path in base.folder.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)


def open_adapter(plain: Plain, folder: Path) -> nn.Module:
    """The adapter as ``peft`` opens it, on the base; to compare it with the release."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going away
        language = isinstance(plain.module, PlainLanguage)
        base = open_whole(plain.base) if language else _encoder(plain.base.folder)
        opened = PeftModel.from_pretrained(base, str(folder))
    config = opened.active_peft_config
    before = config.num_virtual_tokens if config.is_prompt_learning else 0
    if language and before:
        return PromptedLanguage(opened, before).eval()
    return PlainLanguage(opened.get_base_model()).eval() if language else _with_head(plain, opened, folder, before)


class PromptedLanguage(nn.Module):
    """A language model behind a prompt as ``peft`` has it: what comes after the last token of each row."""

    def __init__(self, whole: nn.Module, before: int) -> None:
        """``before``: vectors that stand before the text, and have logits too."""
        super().__init__()
        self.whole = whole
        self.before = before

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of the next token, float32 ``[rows, vocabulary]``, of int64 ``[rows, tokens]`` ids and mask."""
        logits: Tensor = self.whole(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        return logits[torch.arange(len(logits)), self.before + attention_mask.sum(1) - 1]


def open_merged(plain: Plain, folder: Path) -> nn.Module:
    """The merged model as ``transformers`` opens it; to compare it with the release."""
    if plain.by_token:
        return open_tagger(folder)
    if isinstance(plain.module, PlainEncoder):
        return PlainEncoder(_encoder(folder)).eval()
    if isinstance(plain.module, PlainLanguage):
        return PlainLanguage(open_whole(replace(plain.base, folder=folder))).eval()
    return _with_head(plain, _encoder(folder), folder)


def _encoder(folder: Path) -> nn.Module:
    from transformers import AutoModel

    encoder: nn.Module = AutoModel.from_pretrained(
        str(folder), local_files_only=True, dtype=torch.float32, attn_implementation=ATTENTION
    )
    return encoder


def _with_head(plain: Plain, encoder: nn.Module, folder: Path, before: int = 0) -> nn.Module:
    tensors = load_file(folder / HEAD)
    head = nn.Linear(tensors["weight"].shape[1], tensors["weight"].shape[0])
    head.load_state_dict(tensors)
    return PlainText(encoder, None if plain.by_token else plain.base.pooling, head, before=before).eval()


def _text(plain: Plain) -> PlainText | PlainLanguage:
    if not isinstance(plain.module, PlainText | PlainLanguage):
        raise TypeError("a model of texts is needed")  # formats.check_format refuses others first
    return plain.module


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
