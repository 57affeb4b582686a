"""Tiny bases of random weights, one of each make, written on the spot: nothing is fetched to try what goes together.

Example::

    ref = MAKES["bert"].make(folder)                 # a folder with config.json, model.safetensors and a tokenizer
    open_base(ref, cache=folder)
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ConvNextConfig,
    ConvNextModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)
from transformers.utils.logging import disable_progress_bar

from fedrelease.tasks import TASKS

__all__ = ["MAKES", "Make"]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENS = 64
"""The longest text that a tiny base takes."""
SIDE = 16
"""Pixels: of an image's height and width."""


@dataclass(frozen=True, kw_only=True)
class Make:
    """A kind of base: what it reads, ``texts`` or ``images``, and what writes one into a folder and says how it is named."""

    reads: str
    make: Callable[[Path], str]


def _cells(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield from value.split()
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _cells(part)


def _words() -> tuple[str, ...]:
    """All that the samples of tasks are made of."""
    rows = (row for task in TASKS.values() for row in task.sample.rows)
    return (*SPECIAL, *sorted({word for row in rows for cell in row.values() for word in _cells(cell)}))


def _tokenizer(*, marked: bool) -> PreTrainedTokenizerFast:
    """``marked``: a text begins with [CLS] and ends with [SEP], as encoders want it; else it only ends with [SEP]."""
    vocabulary = {word: place for place, word in enumerate(_words())}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if marked:
        ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
        words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    own = {"cls_token": "[CLS]", "sep_token": "[SEP]"} if marked else {"eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=TOKENS, **names, **own)


def _written(folder: Path, build: Callable[[], PreTrainedModel]) -> str:
    """The same weights every time; nobody's random numbers are touched."""
    disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        build().save_pretrained(folder)
    return str(folder)


def _encoder(folder: Path) -> str:
    _tokenizer(marked=True).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(_words()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=TOKENS,
    )
    return _written(folder, lambda: BertForMaskedLM(config))


def _gpt2(folder: Path) -> str:
    _tokenizer(marked=False).save_pretrained(folder)
    config = GPT2Config(
        vocab_size=len(_words()), n_embd=32, n_layer=2, n_head=2, n_positions=TOKENS, bos_token_id=2, eos_token_id=3
    )
    return _written(folder, lambda: GPT2LMHeadModel(config))


def _llama(folder: Path) -> str:
    _tokenizer(marked=False).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(_words()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=TOKENS,
        tie_word_embeddings=True,
        bos_token_id=2,
        eos_token_id=3,
    )
    return _written(folder, lambda: LlamaForCausalLM(config))


def _t5(folder: Path) -> str:
    _tokenizer(marked=False).save_pretrained(folder)
    config = T5Config(
        vocab_size=len(_words()),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
    )
    return _written(folder, lambda: T5ForConditionalGeneration(config))


def _vision(build: Callable[[], PreTrainedModel]) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        ref = _written(folder, build)
        facts = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5], "image_std": [0.5]}
        (folder / "preprocessor_config.json").write_text(json.dumps(facts), encoding="utf-8")
        return ref

    return make


def _vit() -> PreTrainedModel:
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=SIDE,
        patch_size=4,
        num_channels=1,
    )
    return ViTModel(config)


def _resnet() -> PreTrainedModel:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    return ResNetModel(ResNetConfig(num_channels=1, layer_type="basic", hidden_act="relu", **sizes))


def _convnext() -> PreTrainedModel:
    sizes = {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1], "patch_size": 2}
    return ConvNextModel(ConvNextConfig(num_channels=1, image_size=SIDE, **sizes))


MAKES: Mapping[str, Make] = {
    "bert": Make(reads="texts", make=_encoder),
    "gpt2": Make(reads="texts", make=_gpt2),
    "llama": Make(reads="texts", make=_llama),
    "t5": Make(reads="texts", make=_t5),
    "cnn": Make(reads="images", make=lambda folder: f"cnn:1x{SIDE}x{SIDE}-4-8"),
    "convnext": Make(reads="images", make=_vision(_convnext)),
    "mlp": Make(reads="images", make=lambda folder: f"mlp:{SIDE * SIDE}-8"),
    "resnet": Make(reads="images", make=_vision(_resnet)),
    "vit": Make(reads="images", make=_vision(_vit)),
}
"""Of each make one."""
