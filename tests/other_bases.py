"""Bases of other makes than the tiny BERT, with random weights."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    DebertaV2Config,
    DebertaV2Model,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    ResNetConfig,
    ResNetModel,
    RobertaConfig,
    RobertaModel,
    ViTConfig,
    ViTModel,
)

from fedrelease.models.efficientnet import EfficientNetLite
from fedrelease.models.efficientnet_lite0 import LITE0


def other_base(tiny_base: Path, tmp_path: Path, model: torch.nn.Module) -> Path:
    """A folder with the tiny base's tokenizer and another model's weights."""
    folder = Path(shutil.copytree(tiny_base, tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors")))
    model.save_pretrained(folder)  # type: ignore[operator]  # transformers ships no types
    return folder


def small_llama() -> LlamaModel:
    return LlamaModel(
        LlamaConfig(
            vocab_size=24,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            attention_dropout=0.5,
        )
    )


def small_gpt2() -> GPT2Model:
    return GPT2Model(GPT2Config(vocab_size=24, n_embd=32, n_layer=2, n_head=2, n_positions=64))


def small_roberta() -> RobertaModel:
    """Its positions are counted row by row, and its rows of padding have no gradient."""
    return RobertaModel(
        RobertaConfig(
            vocab_size=24,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=66,
            pad_token_id=0,
        )
    )


def small_deberta() -> DebertaV2Model:
    """Its attention has layers that are given vectors of distances, the same for all rows."""
    return DebertaV2Model(
        DebertaV2Config(
            vocab_size=24,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            type_vocab_size=0,
        )
    )


def vision_base(folder: Path, make: str) -> Path:
    """A small ViT or ResNet for grey images of 16 x 16, saved as transformers saves it."""
    vit = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=4,
        num_channels=1,
    )
    resnet = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", hidden_act="relu"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ViTModel(vit) if make == "vit" else ResNetModel(resnet)
    model.save_pretrained(folder / make)
    facts = {"size": {"height": 16, "width": 16}, "image_mean": [0.5], "image_std": [0.5]}
    (folder / make / "preprocessor_config.json").write_text(json.dumps(facts))
    return folder / make


def lite_base(folder: Path) -> Path:
    """An EfficientNet-lite of three blocks and random weights for colours of 16 x 16, in the form of a converted one."""
    stages = ((1, 3, 1, 1, 8), (2, 3, 2, 2, 8))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EfficientNetLite(stages, width=12)
        for norm in (layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)):
            norm.running_mean.normal_(std=0.1)  # type: ignore[union-attr]  # it has one
            torch.nn.init.constant_(
                norm.weight, 4.0
            )  # so that what random layers see does not fade from one to the next
    (folder / "lite").mkdir(parents=True)
    save_file(network.state_dict(), folder / "lite" / "model.safetensors")
    facts = {**LITE0, "hidden_size": 12, "image_size": 16, "num_hidden_layers": 3, "stages": stages}
    (folder / "lite" / "config.json").write_text(json.dumps(facts))
    facts = {"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "lite" / "preprocessor_config.json").write_text(json.dumps(facts))
    return folder / "lite"
